import numpy as np
import pytest

from softprompt.testing.tiny import tiny_backbone

_QWEN2 = {
    "num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "layer_types": None,
    "num_key_value_heads": 1, "use_sliding_window": False, "sliding_window": None, "max_window_layers": 28,
}  # fmt: skip


@pytest.fixture(autouse=True)
def home(request, tmp_path_factory, monkeypatch):
    """A home of its own for each test; the real backbone, which takes a minute to convert, stays in the user's."""
    if request.node.get_closest_marker("real"):
        return None
    path = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("SOFTPROMPT_HOME", str(path))
    return path


@pytest.fixture
def save():
    """Write a tiny backbone as `save_pretrained` does."""

    def write(folder, family="llama", **settings):
        backbone = tiny_backbone(family, **settings)
        backbone.model.save_pretrained(folder)
        backbone.tokenizer.save_pretrained(folder)
        return backbone

    return write


@pytest.fixture
def qwen2():
    """A backbone that a GGUF file can hold without loss."""
    return tiny_backbone("qwen2", **_QWEN2)


@pytest.fixture
def write_gguf(qwen2):
    """Write `qwen2` as a GGUF file of fp32 tensors; settings and tensors may be added."""
    gguf = pytest.importorskip("gguf")

    def write(path, settings=None, tensors=None, architecture="qwen2"):
        writer = gguf.GGUFWriter(path, architecture)
        _write_settings(writer, qwen2.model.config)
        _write_tokenizer(writer, gguf, qwen2.tokenizer)
        for key, value in (settings or {}).items():
            (writer.add_string if isinstance(value, str) else writer.add_uint32)(f"{architecture}.{key}", value)
        for name, tensor in {**_named(qwen2.model), **(tensors or {})}.items():
            writer.add_tensor(name, np.ascontiguousarray(tensor))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write


def _write_settings(writer, config):
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])


def _write_tokenizer(writer, gguf, tokenizer):
    import json

    state = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    special = set(tokenizer.all_special_tokens)
    kinds = [gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL for token in tokens]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) for pair in state["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)


_PARTS = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def _named(model):
    """llama.cpp's names for transformers' parameters."""
    named = {}
    for name, parameter in model.named_parameters():
        for theirs, ours in {
            "model.embed_tokens": "token_embd",
            "model.norm": "output_norm",
            "lm_head": "output",
        }.items():
            name = name.replace(theirs, ours)
        name = name.replace("model.layers", "blk")
        for theirs, ours in _PARTS.items():
            name = name.replace(theirs, ours)
        named[name] = parameter.numpy()
    return named
