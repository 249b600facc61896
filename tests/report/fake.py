"""A plausible run folder, made up: what the lab writes, without training anything.

python tests/report/fake.py FOLDER [--seeds N] [--variants N]     then look at FOLDER/report.html
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

# label, change of loss at the end (nats), speed, memory, signed maps, paper, link
VARIANTS: list[tuple[str, float, float, float, bool, str | None, str | None]] = [
    ("transformer++", 0.0, 1.0, 1.0, False, None, None),
    ("diff", 0.047, 0.84, 1.12, True, "Ye et al. 2024", "https://arxiv.org/abs/2410.05258"),
    ("diff2", -0.003, 0.93, 1.05, True, "Ye et al. 2026", "https://example.org/diff2"),
    ("dcmha", -0.061, 0.52, 1.61, True, "Xiao et al. 2024", "https://arxiv.org/abs/2405.08553"),
    ("dape(bias=kerple)", -0.118, 0.47, 1.72, False, "Zheng et al. 2024", None),
    ("sas", 0.021, 1.09, 0.93, True, "He & Hofmann 2023", "https://arxiv.org/abs/2311.01906"),
    ("sas-p", 0.006, 1.14, 0.91, True, "He & Hofmann 2023", "https://arxiv.org/abs/2311.01906"),
    ("diff+dcmha(rank=4)+dape(bias=kerple,kernel=5)", -0.09, 0.3, 2.1, True, None, None),
    ("talking-heads", -0.012, 0.7, 1.4, True, "Shazeer et al. 2020", None),
    ("temperature", 0.001, 0.98, 1.0, False, None, None),
    ("gated", -0.03, 0.95, 1.03, False, "Qiu et al. 2025", None),
    ("alibi", -0.05, 1.01, 1.0, False, "Press et al. 2021", None),
    ("fire", -0.04, 0.9, 1.1, False, "Li et al. 2023", None),
    ("v-skipinit", 0.03, 1.05, 0.95, False, "He et al. 2023", None),
    ("parallel", 0.011, 1.1, 0.97, False, None, None),
]
BATCH, STEPS, CONTEXT, FLOPS = 2048, 400, 256, 9.4e6
BUDGETS = (0.25, 0.5, 1.0)
PASSAGE = (
    "def quantiles ( data , * , n = 4 , method = ' exclusive ' ) : \n "
    '"" " Divide data into n continuous intervals with equal prob ability . \n\n Returns a '
    "list of ( n - 1 ) cut points separating the intervals . "
).replace("\n ", "\n~")


def make(
    directory: Path,
    *,
    variants: int = 7,
    seeds: int = 1,
    windows: int = 96,
    context: int = CONTEXT,
    skip: tuple[tuple[str, int], ...] = (),
) -> Path:
    """Write a run folder; ``skip`` names the (variant, seed) pairs that have not finished."""
    chosen = VARIANTS[:variants]
    tokens = [token.replace("~", "   ") or " " for token in PASSAGE.split(" ")][:48]
    info = _info(directory.name, [row[0] for row in chosen], seeds, context, tokens)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "run.json").write_text(json.dumps(info))
    for index, row in enumerate(chosen):
        for seed in range(seeds):
            if (row[0], seed) not in skip:
                _trial(directory, index, row, seed, windows, context, len(tokens))
    return directory


def folder(directory: Path, label: str, seed: int = 0) -> Path:
    """Where the files of one variant and seed lie."""
    return directory / "variants" / re.sub(r"[^a-z0-9]+", "-", label).strip("-") / f"seed{seed}"


def hues(folder: Path) -> list[tuple[str, str]]:
    """Colours of a page's variants, light and dark, as its style sheet has them."""
    text = (folder / "report.html").read_text()
    return re.findall(r"--v\d+: light-dark\((#\w{6}), (#\w{6})\)", text)


def _trial(
    directory: Path,
    index: int,
    row: tuple[Any, ...],
    seed: int,
    windows: int,
    context: int,
    size: int,
) -> None:
    label, effect, speed, memory, signed, paper, source = row
    path = folder(directory, label, seed)
    path.mkdir(parents=True, exist_ok=True)
    luck = np.random.default_rng((index, seed, 3)).normal(0, 0.02)
    rate = 9800 * speed
    flops = FLOPS * (1 + 0.15 * (1 / speed - 1))
    budgets = []
    for number, share in enumerate(BUDGETS):
        total = 3.62 + 0.55 * (share**-0.45 - 1) + effect * (0.4 + 0.6 * share) + luck
        losses = _losses(total, effect, windows, context, (index, seed, number))
        np.savez(path / f"eval-{number}.npz", losses=losses.astype(np.float32))
        tokens = int(BATCH * STEPS * share)
        budgets.append(
            {
                "tokens": tokens,
                "step": int(STEPS * share),
                "seconds": tokens / rate,
                "flops": tokens * flops,
                "loss": float(losses.mean()),
                "stderr": float(losses.mean(1).std(ddof=1) / len(losses) ** 0.5),
                "file": f"eval-{number}.npz",
            }
        )
    _curve(path / "train.jsonl", effect + luck, rate, (index, seed))
    maps = _maps(size, signed, (index, seed))
    np.savez(path / "maps.npz", maps=maps.astype(np.float16))
    result = {
        "variant": label,
        "slug": path.parent.name,
        "seed": seed,
        "title": f"{label.split('(')[0].title()} attention",
        "paper": paper,
        "source": source,
        "peak_lr": 0.004 if index % 2 else 0.008,
        "peak_lr_source": "hint" if index == 2 else "tuned",
        "parameters": 1_050_624 + 1_300 * index,
        "parameters_non_embedding": 919_552 + 1_300 * index,
        "intermediate_size": 344 - 6 * index,
        "flops_per_token": flops,
        "cache_bytes_per_token": int(2048 * (1 + 0.25 * (index % 3))),
        "impl": "folded" if index % 2 else "chunked",
        "tokens_per_second": rate,
        "tokens_per_second_range": [rate * 0.94, rate * 1.03],
        "peak_memory_bytes": int(412e6 * memory),
        "train_seconds": BATCH * STEPS / rate,
        "tokens": BATCH * STEPS,
        "budgets": budgets,
    }
    (path / "result.json").write_text(json.dumps(result))


def _losses(mean: float, effect: float, windows: int, context: int, key: tuple[int, ...]) -> Any:
    """Difficulty of each window (shared by all), easier with position, own noise on top."""
    shared = np.random.default_rng(7)
    difficulty = shared.normal(0, 0.35, (windows, 1))
    tokens = shared.gamma(2.0, 0.25, (windows, context)) - 0.5
    position = 2.6 * (np.arange(context) + 1.0) ** -0.45
    own = np.random.default_rng(key)
    values = mean + difficulty + tokens + (position - position.mean()) * (1 + effect)
    return values + own.normal(0, 0.025, (windows, 1)) + own.normal(0, 0.3, (windows, context))


def _curve(path: Path, effect: float, rate: float, key: tuple[int, ...]) -> None:
    noise = np.random.default_rng(key)
    with path.open("w") as file:
        for step in range(1, STEPS + 1):
            share = step / STEPS
            since = min((share - b) % 1.0 for b in (*BUDGETS, 0.0))
            decay = 0.14 if any(b - 0.1 * b < share <= b for b in BUDGETS) else 0.0
            loss = 3.75 + 0.5 * (share**-0.5 - 1) + effect - decay * min(1, 10 * since)
            loss += 2.0 * np.exp(-40 * share) + noise.normal(0, 0.06)
            tokens = step * BATCH
            row = {"step": step, "tokens": tokens, "seconds": tokens / rate, "loss": float(loss)}
            row |= {"lr": 0.004, "grad_norm": 0.8, "tokens_per_second": rate}
            file.write(json.dumps(row) + "\n")


def _maps(size: int, signed: bool, key: tuple[int, ...], layers: int = 4, heads: int = 4) -> Any:
    draw = np.random.default_rng(key)
    i, j = np.arange(size)[:, None], np.arange(size)[None]
    maps = np.zeros((layers, heads, size, size))
    for layer in range(layers):
        for head in range(heads):
            scores = draw.normal(0, 1.2, (size, size)) - (i - j) * draw.uniform(0.0, 0.4)
            scores += 3.0 * draw.uniform() * (j == 0)
            scores = np.where(j <= i, scores, -np.inf)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            maps[layer, head] = weights / weights.sum(-1, keepdims=True)
    return np.tril(maps - 0.55 * np.roll(maps, 1, axis=1)) if signed else maps


def _info(
    name: str, labels: list[str], seeds: int, context: int, tokens: list[str]
) -> dict[str, Any]:
    recipe = f"name: {name}\ncontrol: {labels[0]}\nvariants:\n" + "".join(
        f"  - {label}\n" for label in labels
    )
    total = BATCH * STEPS
    return {
        "name": name,
        "created": "2026-03-14T09:26:53+00:00",
        "softmap_version": "0.1.0",
        "commit": "60e54f5c0ffee",
        "command": f"softmap compare recipes/{name}.yaml --seeds {seeds}",
        "recipe": recipe + f"data: stdlib\ntokens: {total}\ncontext: {context}\n",
        "control": labels[0],
        "versions": {"python": "3.11.9", "torch": "2.13.0", "numpy": "2.4.6", "platform": "Linux"},
        "device": {
            "name": "Some CPU",
            "kind": "cpu",
            "cores": 2,
            "threads": 2,
            "memory_bytes": 8e9,
        },
        "data": {
            "source": "stdlib",
            "hash": "9f2b7c1de4a05d6f",
            "tokenizer": "bpe:1024",
            "vocab_size": 1024,
            "train_tokens": 3_912_004,
            "heldout_tokens": 204_113,
            "train_documents": 512,
            "heldout_documents": 27,
            "bytes_per_token": 3.1,
        },
        "model": {
            "hidden_size": 128,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "context": context,
            "target_parameters": 1_050_624,
        },
        "training": {
            "schedule": "wsd-s",
            "budgets_tokens": [int(total * share) for share in BUDGETS],
            "steps": STEPS,
            "batch_tokens": BATCH,
            "precision": "fp32",
            "warmup": 20,
            "decay_fraction": 0.1,
            "decay_shape": "reciprocal",
            "weight_decay": 0.1,
        },
        "variants": labels,
        "seeds": list(range(seeds)),
        "passage": {"tokens": tokens, "text": "".join(tokens)},
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--variants", type=int, default=7)
    args = parser.parse_args()
    from softmap import report

    print(report.build(make(args.folder, seeds=args.seeds, variants=args.variants)))
