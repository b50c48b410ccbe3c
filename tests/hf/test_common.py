"""The tests that transformers gives every model; docs/huggingface.md says how to get and run them.

They are run where TRANSFORMERS_TESTS names the folder ``tests`` of its sources. Two files of it
that the published archive lacks are left out: of export and of text generation.
"""

import copy
import importlib
import os
import re
import sys
import types
import unittest

import pytest
import torch

FOLDER = os.environ.get("TRANSFORMERS_TESTS")
if not FOLDER:
    pytest.skip("TRANSFORMERS_TESTS is not set", allow_module_level=True)
pytest.importorskip("transformers")

from lrformer.hf import (  # noqa: E402
    LRFormerBackbone,
    LRFormerConfig,
    LRFormerForImageClassification,
    LRFormerForSemanticSegmentation,
    LRFormerModel,
)


def _module(name, **content):
    sys.modules[name] = module = types.ModuleType(name)
    vars(module).update(content)


_module("transformers_tests", __path__=[FOLDER])
for _name, _mixin in (
    ("exporters.test_export", "ExportTesterMixin"),
    ("generation.test_utils", "GenerationTesterMixin"),
):
    _module(f"transformers_tests.{_name.split('.')[0]}", __path__=[])
    _module(f"transformers_tests.{_name}", **{_mixin: type(_mixin, (), {})})
backbone_common, modeling_common = (
    importlib.import_module(f"transformers_tests.test_{name}_common")
    for name in ("backbone", "modeling")
)

# It sets every key with "layer_scale" in its name to a number, where ours is a list.
modeling_common._config_zero_init = copy.deepcopy
# As if the models were transformers' own: some tests ask which are given labels.
modeling_common.MODEL_MAPPING_NAMES["lrformer"] = "LRFormerModel"
for _task in ("ImageClassification", "SemanticSegmentation"):
    _names = f"MODEL_FOR_{'_'.join(re.findall('[A-Z][a-z]+', _task)).upper()}_MAPPING_NAMES"
    getattr(modeling_common, _names)["lrformer"] = f"LRFormerFor{_task}"


class Tester:
    """Small models and their inputs, as the tests ask for them."""

    batch_size, num_channels, image_size, num_labels = 3, 3, 64, 3
    is_training = True
    # Of the stem's map, which is the first of the hidden states.
    num_hidden_layers, expected_num_hidden_layers, seq_length, hidden_size = 1, 5, 16, 16

    def get_config(self):
        return LRFormerConfig(
            embed_dims=[8, 16, 24, 32],
            depths=[1, 1, 2, 1],
            num_heads=[1, 2, 2, 4],
            mlp_ratios=[2, 2, 2, 2],
            decoder_hidden_size=16,
            num_labels=self.num_labels,
            out_features=["stage1", "stage4"],
            drop_path_rate=0.0,
        )

    def prepare_config_and_inputs_for_common(self):
        size = (self.batch_size, self.num_channels, self.image_size, self.image_size)
        return self.get_config(), {"pixel_values": torch.rand(size)}


class TestModels(modeling_common.ModelTesterMixin, unittest.TestCase):
    all_model_classes = (
        LRFormerModel,
        LRFormerForImageClassification,
        LRFormerForSemanticSegmentation,
    )
    test_resize_embeddings = False
    test_can_init_all_missing_weights_before_2023 = True
    has_attentions = False
    # These ask for layers of a class of transformers'.
    test_gradient_checkpointing_enable_disable = None
    test_training_gradient_checkpointing = None
    test_training_gradient_checkpointing_use_reentrant_false = None
    test_training_gradient_checkpointing_use_reentrant_true = None
    # It asks for an embedding of tokens.
    test_model_get_set_embeddings = None

    def setUp(self):
        self.model_tester = Tester()


class TestBackbone(backbone_common.BackboneTesterMixin, unittest.TestCase):
    all_model_classes = (LRFormerBackbone,)
    config_class = LRFormerConfig
    has_attentions = False

    def setUp(self):
        self.model_tester = Tester()
