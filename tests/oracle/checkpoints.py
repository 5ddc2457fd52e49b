"""Random tiny Qwen3 checkpoints in every shape and spelling that a config.json can have."""
import json

import safetensors.torch
import torch

MAX_POSITIONS = 512


def draw_rope(rng):
    kind = rng.choice(["none", "none", "linear", "llama3", "yarn"])
    theta = rng.choice([10000, 1000000, 5000000.0])
    scaling = {
        "none": None,
        "linear": {"rope_type": "linear", "factor": rng.choice([2.0, 3.5])},
        "llama3": {"rope_type": "llama3", "factor": rng.choice([4.0, 8.0]), "low_freq_factor": 1.0,
                   "high_freq_factor": 4.0, "original_max_position_embeddings": 64},
        "yarn": {"rope_type": "yarn", "factor": rng.choice([2.0, 4.0]),
                 "original_max_position_embeddings": rng.choice([64, 128])},
    }[kind]
    if kind == "yarn" and rng.random() < 0.4:
        scaling |= {"beta_fast": 24.0, "beta_slow": 2.0}
    if kind == "yarn" and rng.random() < 0.3:
        scaling["attention_factor"] = 1.07
    if kind == "yarn" and rng.random() < 0.3:
        scaling["truncate"] = False
    if rng.random() < 0.5:
        return {"rope_parameters": {"rope_theta": theta, **(scaling or {"rope_type": "default"})}}
    return {"rope_theta": theta, "rope_scaling": scaling}


def draw_attention(rng):
    num_kv = rng.choice([1, 1, 2, 3])
    fields = {
        "num_key_value_heads": num_kv,
        "num_attention_heads": num_kv * rng.choice([1, 2, 3, 4, 8]),
        "head_dim": rng.choice([32, 64, 128]),
        "attention_bias": rng.random() < 0.3,
    }
    return fields


def draw_sliding(rng, num_layers):
    if rng.random() < 0.65:
        return {"use_sliding_window": False, "sliding_window": rng.choice([None, 16])}
    return {"use_sliding_window": True, "sliding_window": rng.choice([1, 5, 16, 33]),
            "max_window_layers": rng.randint(0, num_layers)}


def draw_experts(rng, num_layers):
    num_experts = rng.randint(2, 19)
    return {
        "num_experts": num_experts,
        "num_experts_per_tok": rng.randint(1, min(8, num_experts)),
        "moe_intermediate_size": rng.randint(9, 70),
        "norm_topk_prob": rng.random() < 0.5,
        "decoder_sparse_step": rng.choice([1, 1, 2]),
        "mlp_only_layers": rng.sample(range(num_layers), rng.choice([0, 0, 1])),
    }


def draw_config(rng):
    is_moe = rng.random() < 0.5
    num_layers = rng.randint(1, 4)
    return {
        "architectures": ["Qwen3MoeForCausalLM" if is_moe else "Qwen3ForCausalLM"],
        "model_type": "qwen3_moe" if is_moe else "qwen3",
        "hidden_act": "silu",
        "vocab_size": rng.randint(90, 400),
        "hidden_size": rng.choice([24, 40, 64, 72, 100, 136]),
        "intermediate_size": rng.randint(30, 150),
        "num_hidden_layers": num_layers,
        "rms_norm_eps": rng.choice([1e-6, 1e-5]),
        "max_position_embeddings": MAX_POSITIONS,
        "tie_word_embeddings": rng.random() < 0.4,
        "bos_token_id": 1,
        "eos_token_id": 2,
        rng.choice(["torch_dtype", "dtype"]): rng.choice(["bfloat16", "float16", "float32"]),
        **draw_attention(rng),
        **draw_sliding(rng, num_layers),
        **draw_rope(rng),
        **(draw_experts(rng, num_layers) if is_moe else {}),
    }


def shapes(config):
    """Every tensor of the checkpoint: name -> shape."""
    hidden, dim = config["hidden_size"], config["head_dim"]
    q, kv = config["num_attention_heads"] * dim, config["num_key_value_heads"] * dim
    result = {"model.embed_tokens.weight": (config["vocab_size"], hidden),
              "model.norm.weight": (hidden,)}
    if not config["tie_word_embeddings"]:
        result["lm_head.weight"] = (config["vocab_size"], hidden)

    def add_mlp(prefix, size):
        for name in ("gate_proj", "up_proj"):
            result[f"{prefix}.{name}.weight"] = (size, hidden)
        result[f"{prefix}.down_proj.weight"] = (hidden, size)

    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        attention = f"{layer}.self_attn"
        for name, (rows, columns) in {"q_proj": (q, hidden), "k_proj": (kv, hidden),
                                      "v_proj": (kv, hidden), "o_proj": (hidden, q)}.items():
            result[f"{attention}.{name}.weight"] = (rows, columns)
            if config["attention_bias"]:
                result[f"{attention}.{name}.bias"] = (rows,)
        for name in ("q_norm", "k_norm"):
            result[f"{attention}.{name}.weight"] = (dim,)
        for name in ("input_layernorm", "post_attention_layernorm"):
            result[f"{layer}.{name}.weight"] = (hidden,)
        is_sparse = ("num_experts" in config and i not in config["mlp_only_layers"]
                     and (i + 1) % config["decoder_sparse_step"] == 0)
        if not is_sparse:
            add_mlp(f"{layer}.mlp", config["intermediate_size"])
            continue
        result[f"{layer}.mlp.gate.weight"] = (config["num_experts"], hidden)
        for expert in range(config["num_experts"]):
            add_mlp(f"{layer}.mlp.experts.{expert}", config["moe_intermediate_size"])
    return result


def draw_tensor(name, shape, generator):
    noise = torch.randn(shape, generator=generator)
    if "norm" in name:
        return 1 + 0.2 * noise
    if name.endswith(".bias"):
        return 0.3 * noise
    if "embed" in name:
        return noise
    return noise * (1.4 / shape[-1] ** 0.5)


def write(folder, rng):
    """Writes a checkpoint into `folder`; returns its config."""
    config = draw_config(rng)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    dtype = getattr(torch, config.get("dtype") or config["torch_dtype"])
    generator = torch.Generator().manual_seed(rng.getrandbits(40))
    tensors = {name: draw_tensor(name, shape, generator).to(dtype)
               for name, shape in shapes(config).items()}
    num_shards = rng.choice([1, 1, 2, 5])
    if num_shards == 1:
        safetensors.torch.save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return config
    weight_map = {}
    names = list(tensors)
    rng.shuffle(names)
    for shard in range(num_shards):
        file = f"model-{shard + 1:05}-of-{num_shards:05}.safetensors"
        part = {name: tensors[name] for name in names[shard::num_shards]}
        safetensors.torch.save_file(part, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}))
    return config
