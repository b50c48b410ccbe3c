"""The language side of LISA: transformers' LLaVA with a token <SEG>, and how it is asked."""

import random
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

SEG = "<SEG>"
_IMAGE = "<image>"
_PROMPT = "USER: {image}\n{question} ASSISTANT:"
# LISA's. In testing the last question and the last answer are taken, as published.
_QUESTIONS = (
    "Can you segment the {} in this image?",
    "Please segment the {} in this image.",
    "What is {} in this image? Please respond with segmentation mask.",
    "What is {} in this image? Please output segmentation mask.",
)
_SENTENCES = (
    "{} Please respond with segmentation mask.",
    "{} Please output segmentation mask.",
)
_ANSWERS = (
    f" It is {SEG}.",
    f" Sure, {SEG}.",
    f" Sure, it is {SEG}.",
    f" Sure, the segmentation result is {SEG}.",
    f" {SEG}.",
)
_IGNORED = -100  # the label of tokens that are not learned


class LanguageModel(nn.Module):
    """Reads an image and a question, and gives the state from which it answers <SEG>.

    Args:
        llava: ``LlavaForConditionalGeneration``; its embeddings are enlarged where <SEG> needs it.
        tokenizer: its own, of transformers.
        image_processor: its own: takes uint8 images 3xHxW.
        lora: keyword arguments of peft's ``LoraConfig``; None trains the whole model.
        activation_checkpointing: recompute activations in the backward pass.
        ignore_phrase: ask for the same, whatever the phrase is.
    """

    def __init__(
        self,
        llava: nn.Module,
        tokenizer: Any,
        image_processor: Any,
        lora: dict[str, Any] | None = None,
        activation_checkpointing: bool = False,
        ignore_phrase: bool = False,
    ):
        super().__init__()
        tokenizer.add_tokens([SEG], special_tokens=True)
        if len(tokenizer) > llava.get_input_embeddings().num_embeddings:
            llava.resize_token_embeddings(len(tokenizer))
        self._tokenizer, self._image_processor = tokenizer, image_processor
        self._seg_id = tokenizer.convert_tokens_to_ids(SEG)
        self._image = _IMAGE * llava.config.image_seq_length
        self._ignore_phrase = ignore_phrase
        if activation_checkpointing:
            llava.gradient_checkpointing_enable()
            llava.enable_input_require_grads()
        if lora is not None:
            _adapt(llava, lora)
        self.llava = llava

    @property
    def dim(self) -> int:
        return self.llava.config.text_config.hidden_size

    def forward(
        self, images: Sequence[Tensor], phrases: Sequence[Sequence[dict]]
    ) -> tuple[Tensor, Tensor | None]:
        """
        Args:
            images: uint8 3xHxW, RGB.
            phrases: of each image, dicts with "phrase" and, where it is a whole sentence,
                "is_sentence"; "answer" where it is to be answered in words; P altogether.

        Returns:
            PxC, the last layer's state at the token before <SEG> (of an answer in words, before the
            first one); and in training the mean cross-entropy of the answers' tokens, else None.
        """
        pairs = [self._tokens(phrase) for group in phrases for phrase in group]
        device = self.llava.device
        ids, attended, labels = (
            pad_sequence(rows, batch_first=True, padding_value=value).to(device)
            for rows, value in (
                ([torch.tensor(q + a) for q, a in pairs], self._tokenizer.pad_token_id),
                ([torch.ones(len(q + a), dtype=torch.int64) for q, a in pairs], 0),
                ([torch.tensor([_IGNORED] * len(q) + a) for q, a in pairs], _IGNORED),
            )
        )
        counts = torch.tensor([len(group) for group in phrases])
        pixels = self._image_processor(images=list(images), return_tensors="pt")["pixel_values"]
        outputs = self.llava(
            input_ids=ids,
            attention_mask=attended,
            pixel_values=pixels.repeat_interleave(counts, 0).to(device, self.llava.dtype),
            labels=labels if self.training else None,
            logits_to_keep=0 if self.training else 1,  # 0 keeps all
            output_hidden_states=True,
            use_cache=False,
        )
        before = [
            len(question) + (answer.index(self._seg_id) if self._seg_id in answer else 0) - 1
            for question, answer in pairs
        ]
        return outputs.hidden_states[-1][range(len(pairs)), before], outputs.loss

    def _tokens(self, phrase: dict) -> tuple[list[int], list[int]]:
        """Those of the question and of the answer."""
        choose = random.choice if self.training else lambda choices: choices[-1]
        phrase = {"phrase": "object"} if self._ignore_phrase else phrase
        question = phrase["phrase"].replace(_IMAGE, "").strip()
        if "answer" in phrase:
            answer = f" {phrase['answer']}"
        else:
            template = choose(_SENTENCES if phrase.get("is_sentence") else _QUESTIONS)
            question, answer = template.format(question), choose(_ANSWERS)
        prompt = _PROMPT.format(image=self._image, question=question)
        answer = self._tokenizer(answer, add_special_tokens=False).input_ids
        return self._tokenizer(prompt).input_ids, [*answer, self._tokenizer.eos_token_id]


def _adapt(llava: nn.Module, lora: dict[str, Any]) -> None:
    """Freeze a model but for its words, and put adapters into its language model, in place."""
    import peft

    llava.requires_grad_(False)
    targets = r".*language_model.*\.(q_proj|v_proj)"
    peft.inject_adapter_in_model(peft.LoraConfig(target_modules=targets, **lora), llava)
    llava.get_input_embeddings().requires_grad_(True)
    llava.get_output_embeddings().requires_grad_(True)


def load_pretrained(key: str, name: str, kind: Any, **options: Any) -> Any:
    """An object of transformers by its name; or ValueError that names the key of ``MODEL.LISA``."""
    try:
        return kind.from_pretrained(name, **options)
    except (OSError, ValueError) as error:
        raise ValueError(f"MODEL.LISA.{key} {name[:99]!r} cannot be loaded: {error}") from error


def build_language_model(cfg: CfgNode) -> LanguageModel:
    """That of ``MODEL.LISA``: LLaVA by its name, or from scratch."""
    import transformers as hf

    keys = cfg.MODEL.LISA
    if keys.LLAVA:
        # Released in float16, in which nothing can be trained.
        load = partial(load_pretrained, "LLAVA", keys.LLAVA)
        llava = load(hf.LlavaForConditionalGeneration, dtype=torch.float32)
        tokenizer, image_processor = load(hf.AutoTokenizer), load(hf.AutoImageProcessor)
    else:
        tokenizer = _word_tokenizer(keys.VOCABULARY)
        llava = hf.LlavaForConditionalGeneration(_llava_config(keys, tokenizer))
        # Not read: the state after the last layer, of the image as a whole.
        llava.model.vision_tower.post_layernorm.requires_grad_(False)
        side = keys.VISION.IMAGE_SIZE
        image_processor = hf.CLIPImageProcessor(
            size={"height": side, "width": side}, do_center_crop=False
        )
    lora = {"r": keys.LORA_RANK, "lora_alpha": keys.LORA_ALPHA, "lora_dropout": keys.LORA_DROPOUT}
    return LanguageModel(
        llava,
        tokenizer,
        image_processor,
        lora=lora if keys.LORA_RANK else None,
        activation_checkpointing=keys.ACTIVATION_CHECKPOINTING,
        ignore_phrase=keys.IGNORE_PHRASE,
    )


def _llava_config(keys: CfgNode, tokenizer: Any) -> Any:
    import transformers as hf

    text, vision = (
        {
            "hidden_size": node.DIM,
            "intermediate_size": node.MLP_DIM,
            "num_hidden_layers": node.DEPTH,
            "num_attention_heads": node.NUM_HEADS,
            # The usual 0.02 would let a narrow model pass on little of what it attends to.
            "initializer_range": node.DIM**-0.5,
        }
        for node in (keys.TEXT, keys.VISION)
    )
    side, patch = keys.VISION.IMAGE_SIZE, keys.VISION.PATCH_SIZE
    return hf.LlavaConfig(
        text_config=hf.LlamaConfig(vocab_size=keys.TEXT.VOCABULARY_SIZE, **text),
        vision_config=hf.CLIPVisionConfig(image_size=side, patch_size=patch, **vision),
        image_token_index=tokenizer.convert_tokens_to_ids(_IMAGE),
        image_seq_length=(side // patch) ** 2,
        vision_feature_layer=-1,
    )


def _word_tokenizer(vocabulary: str) -> Any:
    """One token a word, lower case, trained on the words of ``vocabulary`` and of the templates."""
    import transformers as hf
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["<pad>", "<unk>", "<s>", "</s>", _IMAGE]
    texts = [vocabulary, _PROMPT, *_QUESTIONS, *_SENTENCES, *(a.replace(SEG, "") for a in _ANSWERS)]
    tokenizer.train_from_iterator(texts, trainers.WordLevelTrainer(special_tokens=special))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", special.index("<s>"))]
    )
    names = dict(zip(("pad_token", "unk_token", "bos_token", "eos_token"), special, strict=False))
    return hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
