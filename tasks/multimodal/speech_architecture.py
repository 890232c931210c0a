"""A speech-language model out of a language model of ours: an encoder in front, and a projector between.

GLM-ASR's architecture (`glmasr` in transformers; Z.ai, 2025): Whisper's encoder with rotary positions, so that what it
hears at once may be as short as the sounds are, four of its frames at a time through two layers into the embedding
space of any decoder. A sound becomes one token for every eight frames of its spectrogram.
"""

from pathlib import Path
from typing import Any

from tasks.models.checks import brief
from tasks.models.folder import load_causal_lm, load_tokenizer
from tasks.multimodal import architecture as architecture_of_pictures
from tasks.multimodal.speech_settings import Features, SpeechArchitecture
from tasks.stage.config import suggest
from tasks.stage.errors import ConfigError

PLACEHOLDER = "<audio>"
"""Token in whose place the features of a sound are put."""
MERGED = 4
"""Frames of the encoder that become one token: its `intermediate_size` by its `hidden_size`."""
FRAMES = 8
"""Frames of the spectrogram that become one token: the encoder halves their number."""
FLATTENED = (
    architecture_of_pictures.FLATTENED.replace("'image'", "'audio'")
    .replace("<image>", PLACEHOLDER)
    .replace("text and images", "text and audio")
)
"""Opening of a chat template: messages whose content is a list of parts become text, then the old template follows."""


def build(text: Path, architecture: SpeechArchitecture, where: Path, seed: int) -> tuple[Any, Any]:
    """Put an encoder and an untrained projector in front of a language model, whose weights stay as they are.

    Args:
        text: folder of the language model.
        architecture: what is put in front; without `encoder` its weights are new.
        where: the recipe file, for messages.
        seed: of the new weights.

    Returns:
        The model and its processor.

    Raises:
        ConfigError: a setting that transformers does not know, or settings that do not fit each other.
        ModelError: the language model cannot be loaded.
    """
    import torch
    from transformers import AddedToken, GlmAsrConfig, GlmAsrForConditionalGeneration
    from transformers.activations import ACT2FN

    language, tokenizer = load_causal_lm(text), load_tokenizer(text)
    torch.manual_seed(seed)
    tokenizer.add_tokens([AddedToken(PLACEHOLDER, special=True, normalized=False)], special_tokens=True)
    if len(tokenizer) > language.get_input_embeddings().num_embeddings:
        language.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    if architecture.act not in ACT2FN:
        raise ConfigError(f"{where}: architecture.act is '{architecture.act}'{suggest(architecture.act, ACT2FN)}")
    extractor, audio, weights = _encoder(architecture, where)
    audio.dtype = language.dtype
    config = GlmAsrConfig(
        audio_config=audio.to_dict(),
        text_config=language.config.to_dict(),
        audio_token_id=tokenizer.convert_tokens_to_ids(PLACEHOLDER),
        projector_hidden_act=architecture.act,
        tie_word_embeddings=language.config.tie_word_embeddings,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    model = GlmAsrForConditionalGeneration(config)
    model.model.language_model.load_state_dict(language.base_model.state_dict())
    if not language.config.tie_word_embeddings:
        model.lm_head.load_state_dict(language.lm_head.state_dict())
    if weights is not None:
        model.model.audio_tower.load_state_dict(weights)
    model.tie_weights()
    model.generation_config = language.generation_config
    return model, _processor(tokenizer, extractor)


def _encoder(architecture: SpeechArchitecture, where: Path) -> tuple[Any, Any, Any]:
    """Return the feature extractor, the encoder's configuration, and its weights; None where they are new."""
    if architecture.encoder is None:
        if architecture.audio is None or architecture.features is None:
            raise ConfigError(f"{where}: architecture needs `audio` and `features`, or an `encoder` that is trained")
        return _extractor(architecture.features, where), _audio_config(architecture, where), None
    if architecture.audio is not None or architecture.features is not None:
        raise ConfigError(f"{where}: architecture.encoder brings `audio` and `features`; set both to null")
    from transformers import AutoFeatureExtractor, AutoModelForMultimodalLM

    name = architecture.encoder
    try:
        donor = AutoModelForMultimodalLM.from_pretrained(name, dtype="float32", use_safetensors=True)
        extractor = AutoFeatureExtractor.from_pretrained(name)
    except Exception as e:  # whatever a folder from outside provokes
        raise ConfigError(f"{where}: architecture.encoder: '{name}' cannot be loaded ({brief(e)})") from None
    if donor.config.model_type != "glmasr":
        raise ConfigError(f"{where}: architecture.encoder: '{name}' is a {donor.config.model_type}; expected a glmasr")
    return extractor, donor.config.audio_config, donor.model.audio_tower.state_dict()


def _extractor(features: Features, where: Path) -> Any:
    from transformers import WhisperFeatureExtractor

    frames = features.sampling_rate * features.chunk_seconds / features.hop
    if frames % FRAMES:
        raise ConfigError(
            f"{where}: architecture.features: {features.chunk_seconds} s at {features.sampling_rate} Hz are {frames:g} "
            f"frames of hop {features.hop}; choose the hop so that they are a multiple of {FRAMES}"
        )
    return WhisperFeatureExtractor(
        feature_size=features.mel_bins,
        sampling_rate=features.sampling_rate,
        hop_length=features.hop,
        chunk_length=features.chunk_seconds,
        n_fft=features.window,
        return_attention_mask=True,
    )


def _audio_config(architecture: SpeechArchitecture, where: Path) -> Any:
    from transformers import GlmAsrEncoderConfig

    settings = dict(architecture.audio or {})
    known = GlmAsrEncoderConfig().to_dict()
    for key in settings:
        if key not in known:  # it would be kept and never read
            raise ConfigError(f"{where}: unknown key 'architecture.audio.{key}'{suggest(key, known)}")
    bins = architecture.features.mel_bins if architecture.features else 0
    width = settings.get("hidden_size", known["hidden_size"])
    fixed = {"num_mel_bins": bins, "intermediate_size": MERGED * width if isinstance(width, int) else width}
    for key, value in fixed.items():
        if settings.get(key, value) != value:
            raise ConfigError(f"{where}: architecture.audio.{key} is {settings[key]}, and has to be {value}")
    try:
        return GlmAsrEncoderConfig(**{**settings, **fixed})
    except Exception as e:  # configurations check their values by exceptions of every kind
        raise ConfigError(f"{where}: architecture.audio: {brief(e)}") from None


def _processor(tokenizer: Any, extractor: Any) -> Any:
    from transformers import GlmAsrProcessor

    tokenizer.chat_template = FLATTENED + tokenizer.chat_template
    return GlmAsrProcessor(
        feature_extractor=extractor,
        tokenizer=tokenizer,
        chat_template=tokenizer.chat_template,
        audio_token=PLACEHOLDER,
    )
