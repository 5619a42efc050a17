"""Ten steps of each optimizer, and whole schedules, against torch.optim.

Where conventions differ, the arguments below make them agree:

* ``weight_decay`` here is apart from the gradient, as in torch's AdamW. torch's SGD, RMSprop and Adam add λ w to the
  gradient instead: for plain SGD that is the same; for the others it is our ``kernel_regularizer``.
* Our momentum holds the rate inside the velocity, torch's multiplies by it afterwards: equal at a constant rate.
* Defaults: our ε is 1e-7 (torch 1e-8), our RMSProp's ρ is 0.9 (torch's alpha 0.99), our AdamW's λ is 0.004 (torch's
  0.01), our NAdam's rate is 0.001 (torch's 0.002).
"""

import numpy as np
import pytest
from numpy.testing import assert_allclose

torch = pytest.importorskip("torch")

from tinydl.optimizers import SGD, Adam, AdamW, Momentum, NAdam, Nesterov, RMSProp  # noqa: E402
from tinydl.optimizers.schedules import (  # noqa: E402
    CosineDecay,
    ExponentialDecay,
    OneCycle,
    PiecewiseConstant,
    StepDecay,
    Warmup,
)
from tinydl.parameters import Parameter, ParameterStore  # noqa: E402

STEPS = 10
SHAPES = [(13, 7), (7,), (3, 3, 2, 5), (1,), (40, 3)]

PAIRS = {
    "sgd": (SGD(0.05), lambda p: torch.optim.SGD(p, 0.05)),
    "sgd, decay": (
        SGD(0.05, weight_decay=0.1),
        lambda p: torch.optim.SGD(p, 0.05, weight_decay=0.1),
    ),
    "momentum": (Momentum(0.05), lambda p: torch.optim.SGD(p, 0.05, momentum=0.9)),
    "nesterov": (Nesterov(0.05), lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, nesterov=True)),
    "rmsprop": (RMSProp(0.01), lambda p: torch.optim.RMSprop(p, 0.01, alpha=0.9, eps=1e-7)),
    "rmsprop, momentum": (
        RMSProp(0.01, momentum=0.8),
        lambda p: torch.optim.RMSprop(p, 0.01, alpha=0.9, eps=1e-7, momentum=0.8),
    ),
    "rmsprop, centered": (
        RMSProp(0.01, rho=0.8, centered=True),
        lambda p: torch.optim.RMSprop(p, 0.01, alpha=0.8, eps=1e-7, centered=True),
    ),
    "adam": (Adam(0.01), lambda p: torch.optim.Adam(p, 0.01, eps=1e-7)),
    "adam, other betas": (
        Adam(0.01, 0.5, 0.9, 1e-3),
        lambda p: torch.optim.Adam(p, 0.01, (0.5, 0.9), eps=1e-3),
    ),
    "adamw": (
        AdamW(0.01, weight_decay=0.1),
        lambda p: torch.optim.AdamW(p, 0.01, eps=1e-7, weight_decay=0.1),
    ),
    "nadam": (NAdam(0.01), lambda p: torch.optim.NAdam(p, 0.01, eps=1e-7)),
    "nadam, decay": (
        NAdam(0.01, weight_decay=0.1),
        lambda p: torch.optim.NAdam(
            p, 0.01, eps=1e-7, weight_decay=0.1, decoupled_weight_decay=True
        ),
    ),
    "adam, clipped": (
        Adam(0.01, global_clipnorm=1.0),
        lambda p: torch.optim.Adam(p, 0.01, eps=1e-7),
    ),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("pair", PAIRS)
def test_ten_steps_agree(pair, dtype):
    optimizer, make_theirs = PAIRS[pair]
    rng = np.random.default_rng(0)
    initial = [rng.normal(size=shape).astype(dtype) for shape in SHAPES]
    ours = [Parameter(f"p{k}", w.copy()) for k, w in enumerate(initial)]
    theirs = [torch.nn.Parameter(torch.tensor(w)) for w in initial]
    optimizer.build(ParameterStore(ours))
    peer = make_theirs(theirs)
    for _ in range(STEPS):
        for p, q in zip(ours, theirs, strict=True):
            # Gradients that depend on the weights, so that a difference would feed itself.
            noise = rng.normal(size=p.shape).astype(dtype)
            p.grad[...] = p.value + noise
            q.grad = q.detach() + torch.tensor(noise)
        if optimizer.global_clipnorm:
            norm = torch.nn.utils.clip_grad_norm_(theirs, optimizer.global_clipnorm)
            assert optimizer.step(0.0).grad_norm == pytest.approx(norm.item(), rel=1e-6)
        else:
            optimizer.step(0.0)
        peer.step()
    # torch divides by the norm plus 1e-6 when it clips, and keeps NAdam's product of μ in float32.
    blurred = optimizer.global_clipnorm or isinstance(optimizer, NAdam)
    exact = dtype == "float64" and not blurred
    for p, q in zip(ours, theirs, strict=True):
        assert_allclose(
            p.value,
            q.detach().numpy(),
            rtol=1e-11 if exact else 1e-5,
            atol=1e-13 if exact else 2e-6,
        )


def their_rates(make_scheduler, rate, steps):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], rate)
    scheduler = make_scheduler(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (
            StepDecay(0.5, 7, 0.3),
            lambda o: torch.optim.lr_scheduler.StepLR(o, step_size=7, gamma=0.3),
        ),
        (
            PiecewiseConstant([5, 20], [0.5, 0.05, 0.005]),
            lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [5, 20], gamma=0.1),
        ),
        (
            ExponentialDecay(0.5, 1, 0.9),
            lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.9),
        ),
        (
            CosineDecay(0.5, 40, alpha=0.02),
            lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 40, eta_min=0.01),
        ),
        (
            OneCycle(0.5, 40),
            lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.5, total_steps=40),
        ),
        (
            Warmup(8, 0.5),
            lambda o: torch.optim.lr_scheduler.LinearLR(o, start_factor=1 / 8, total_iters=7),
        ),
    ],
    ids=lambda x: type(x).__name__ if hasattr(x, "config") else "",
)
def test_schedules_agree(ours, theirs):
    expected = their_rates(theirs, 0.5, 40)
    assert_allclose([ours(t) for t in range(40)], expected, rtol=1e-9, atol=1e-15)
