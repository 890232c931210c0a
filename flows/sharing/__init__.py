"""Results that several clones share through DVC's remote: what somebody has computed is fetched and not computed."""
