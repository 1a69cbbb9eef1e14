"""How fast is a training step? Against a plain one that does the same work as the released code is known to do.

The plain step is written here from the description of the released code: attention as two matrix products and a softmax
in between, swapping pair by pair and patch by patch in a Python loop, one pass of the encoder for each frame and each
crop, DINO with 2 + 8 crops, a teacher that is averaged parameter by parameter. Same weights, same images, one run,
alternating; forward, backward, optimiser and teacher.

    python benchmarks/step.py [--preset small] [--batch 2] [--compile]

released_speedup: our step of the variant `released` against the plain one: the same work, the losses are compared.
paper_speedup: our step of the variant `paper`, per pair, against the plain one. On a GPU both run in bf16, ours
compiled with --compile, and utilisation is the share of the card's peak that the matrix products of our paper step
reach. peak_memory_mb: on a GPU that of the paper step, elsewhere that of the process with its three models. The last
line of the output is one JSON object.
"""

import argparse
import copy
import dataclasses
import json
import resource
import time

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange

from mbert.model.data.draws import Draws
from mbert.model.device import pick_compute
from mbert.model.network.agent import NUM_GLOBAL
from mbert.model.network.config import PRESETS, VARIANTS
from mbert.model.network.micron_bert import MicronBert, patchify
from mbert.model.training.cost import step_cost
from mbert.model.training.objective import ObjectiveConfig, dino_crops, pretraining_losses, random_swap_mask
from mbert.model.training.optim import adamw, set_learning_rate


def plain_block(block, x):
    """A ViT block without fused attention."""
    attention, heads = block.attn, block.attn.num_heads
    query, key, value = rearrange(attention.qkv(block.norm1(x)), "b n (three h d) -> three b h n d", three=3, h=heads)
    weights = torch.softmax(query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5, dim=-1)
    x = x + attention.proj(rearrange(weights @ value, "b h n d -> b n (h d)"))
    return x + block.mlp(block.norm2(x))


def plain_encode(encoder, images):
    patches = encoder.patch_embed(images)
    tokens = rearrange(patches, "b d h w -> b (h w) d") + encoder._positions_for(*patches.shape[2:])
    tokens = torch.cat([encoder.contextual_token.expand(len(tokens), -1, -1), tokens], dim=1)
    for block in encoder.blocks:
        tokens = plain_block(block, tokens)
    tokens = encoder.norm(tokens)
    return tokens[:, 0], tokens[:, 1:]


def plain_swap(t0, t1, mask, patch_size):
    """Pair by pair, patch by patch, as a data loader would."""
    swapped = t0.clone()
    grid = t0.shape[-1] // patch_size
    for number in range(len(t0)):
        for patch in mask[number].nonzero()[:, 0].tolist():
            row, column = divmod(patch, grid)
            rows = slice(row * patch_size, (row + 1) * patch_size)
            columns = slice(column * patch_size, (column + 1) * patch_size)
            swapped[number, :, rows, columns] = t1[number, :, rows, columns]
    return swapped


def plain_losses(model, t0, t1, draws):
    """Reconstruction + DINO of the released code, on the same random numbers as ours."""
    config, agent, dim = model.config, model.agent, model.config.dim
    mask = random_swap_mask(config.grid, ObjectiveConfig(), draws, device=t0.device)
    large, small = dino_crops(t1, patch_size=config.patch_size, draws=draws)
    ts = plain_swap(t0, t1, mask, config.patch_size)
    _, p_ts = plain_encode(model.encoder, ts)
    _, p_t1 = plain_encode(model.encoder, t1)
    attention = model.micro_attention
    query, key, value = attention.to_q(p_ts), attention.to_k(p_t1), attention.to_v(p_ts)
    weights = torch.softmax(query @ key.transpose(1, 2) * dim**-0.5, dim=-1)
    tokens = model.decoder_embed(attention.proj(weights @ value)) + model.decoder_pos_embed
    for block in model.decoder_blocks:
        tokens = plain_block(block, tokens)
    reconstruction = F.mse_loss(model.decoder_pred(model.decoder_norm(tokens)), patchify(t0, config.patch_size))
    batch = len(t0)
    said = [
        torch.log_softmax(agent.head(plain_encode(model.encoder, crop)[0]) / 0.1, dim=-1)
        for crop in (*large.split(batch), *small.split(batch))
    ]
    with torch.no_grad():
        answers = [agent.teacher_head(plain_encode(agent.teacher, crop)[0]) for crop in large.split(batch)]
        targets = [torch.softmax((answer - agent.center) / 0.04, dim=-1) for answer in answers]
        mean = torch.cat(answers).mean(dim=0, keepdim=True)
    pairs = [(i, j) for i in range(NUM_GLOBAL) for j in range(len(said)) if i != j]
    dino = sum(-(targets[i] * said[j]).sum(dim=-1).mean() for i, j in pairs) / len(pairs)
    return reconstruction + dino, mean


# Dense bf16 products per second, from the makers' data sheets.
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}


class Stepper:
    """A model with its optimiser; `step` trains it once and returns the loss, which stays on the card."""

    def __init__(self, model, compute, kind, compiled=False):
        self.model, self.compute, self.kind = model.to(compute.device).train(), compute, kind
        if compiled:
            model.compile()
        self.optimizer = adamw(model, weight_decay=0.05)
        set_learning_rate(self.optimizer, 1e-4)

    def step(self, t0, t1, seed):
        draws = Draws(seed, range(len(t0)))
        with self.compute.autocast():
            if self.kind == "plain":
                loss, mean = plain_losses(self.model, t0, t1, draws)
            else:
                loss = pretraining_losses(self.model, t0, t1, ObjectiveConfig(), draws).total
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        if self.kind == "plain":
            self.plain_follow(mean)
        elif self.model.agent is not None:
            self.model.agent.follow(self.model.encoder, momentum=0.997)
        return loss.detach()

    @torch.no_grad()
    def plain_follow(self, mean):
        agent = self.model.agent
        for student, teacher in ((self.model.encoder, agent.teacher), (agent.head, agent.teacher_head)):
            for own, averaged in zip(student.parameters(), teacher.parameters(), strict=True):
                averaged.data.mul_(0.997).add_(own.detach().data, alpha=0.003)
        agent.center.mul_(0.9).add_(mean, alpha=0.1)


def encoding_rate(model, images, compute):
    """Images per second through the encoder alone."""
    with torch.inference_mode(), compute.autocast():
        for number in range(4):
            if number == 1:  # the first one warms up
                if compute.is_gpu:
                    torch.cuda.synchronize()
                began = time.perf_counter()
            model.encode(images)
        if compute.is_gpu:
            torch.cuda.synchronize()
    return 3 * len(images) / (time.perf_counter() - began)


def make_steppers(size, compute, compiled):
    """The plain step, and ours of both published variants; `plain` and `released` begin with the same weights."""
    torch.manual_seed(0)
    released = MicronBert(dataclasses.replace(size, **VARIANTS["released"]))
    return {
        "plain": Stepper(copy.deepcopy(released), compute, "plain"),
        "released": Stepper(released, compute, "released", compiled),
        "paper": Stepper(MicronBert(dataclasses.replace(size, **VARIANTS["paper"])), compute, "paper", compiled),
    }


def alternating(steppers, t0, t1, rounds):
    """Seconds of each stepper in each round, after one that warms up; `plain` and `released` must agree in the loss."""
    seconds = {name: [] for name in steppers}
    for number in range(rounds + 1):
        losses = {}
        for name, stepper in steppers.items():
            if t0.is_cuda:
                torch.cuda.reset_peak_memory_stats()
            began = time.perf_counter()
            losses[name] = stepper.step(t0, t1, number).item()  # which waits for the card
            if t0.is_cuda:
                torch.cuda.synchronize()
            if number:
                seconds[name].append(time.perf_counter() - began)
        assert abs(losses["plain"] - losses["released"]) < 2e-2 * losses["plain"], losses
        told = ", ".join(f"{name} {values[-1]:.3f} s" for name, values in seconds.items() if values)
        print(f"round {number}: loss {losses['plain']:.5f} plain, {losses['released']:.5f} ours; {told}", flush=True)
    return {name: np.array(values) for name, values in seconds.items()}


def peak_flops(device):
    """Of a card by its name, or None."""
    return next((flops for name, flops in PEAK_FLOPS.items() if name in device), None)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--preset", choices=sorted(PRESETS), default="small")
    parser.add_argument("--batch", type=int, help="pairs; default 2 on a CPU, 64 on a GPU")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--rounds", type=int, default=4)
    arguments = parser.parse_args()
    compute = pick_compute()
    on_gpu = compute.device.type == "cuda"
    batch = arguments.batch or (64 if on_gpu else 2)
    size = PRESETS[arguments.preset]
    steppers = make_steppers(size, compute, arguments.compile)
    t0, t1 = torch.randn(2, batch, size.in_chans, size.image_size, size.image_size).to(compute.device)
    seconds = alternating(steppers, t0, t1, arguments.rounds)
    peak = torch.cuda.max_memory_allocated() if on_gpu else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    encode = encoding_rate(steppers["paper"].model.eval(), torch.cat([t0, t1]), compute)
    result = {
        "released_speedup": round(float(np.median(seconds["plain"] / seconds["released"])), 2),
        "paper_speedup": round(float(np.median(seconds["plain"] / seconds["paper"])), 2),
        "encode_images_per_s": round(encode, 1),
        "peak_memory_mb": round(peak / 2**20),
        "device": torch.cuda.get_device_name() if on_gpu else str(compute.device),
        "pairs_per_s": round(batch / float(np.median(seconds["paper"])), 2),
    }
    if (peak_rate := peak_flops(result["device"])) is not None:
        cost = step_cost(steppers["paper"].model.config, ObjectiveConfig(), batch_size=1)
        result["utilisation"] = round(cost.flops_per_pair * result["pairs_per_s"] / peak_rate, 3)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
