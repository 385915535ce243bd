"""Every parameterization is held to the shipped contract; and what each refuses."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from softprompt.errors import ConfigError, UnknownNameError
from softprompt.prompts.parameterizations.base import Group
from softprompt.prompts.parameterizations.build import build
from softprompt.prompts.parameterizations.deep import DeepPrompt
from softprompt.prompts.parameterizations.direct import DirectPrompt
from softprompt.prompts.parameterizations.direct import from_spec as direct
from softprompt.prompts.parameterizations.registry import PARAMETERIZATIONS
from softprompt.prompts.parameterizations.spec import Spec
from softprompt.prompts.parameterizations.with_rows import PromptWithRows
from softprompt.testing import contract
from softprompt.testing.contract import CHECKS, SIZE, Case, Size, folded

CLASSES = 2


def rows(formula):
    """The documented formula in the first values' P and D."""
    return lambda spec: formula(*spec.initial["input"].shape)


def layered(formula, only=None):
    """The documented formula in P and in W, the numbers of a token over the layers that train."""

    def count(spec):
        tensors = [t for site, t in spec.initial.items() if only is None or int(site.split(".")[1]) in only]
        return formula(tensors[0].shape[1], sum(t.shape[0] * t.shape[2] for t in tensors))

    return count


def even(D):
    return D + D % 2


def with_rows(spec):
    D = spec.initial["input"].shape[1]
    weight = 0.1 * torch.randn(CLASSES, D, generator=torch.Generator().manual_seed(5))
    return PromptWithRows(direct(spec), weight, torch.zeros(CLASSES))


def case(name, count, **options):
    return Case(PARAMETERIZATIONS.get(name), count, layered=name.startswith("deep"), **options)


CASES = {
    "direct": case("direct", rows(lambda P, D: P * D)),
    "mlp": case("mlp", rows(lambda P, D: P * D + 2 * D * D + D + D)),
    "mlp hidden=3": case("mlp", rows(lambda P, D: P * D + 2 * 3 * D + 3 + D), settings={"hidden": 3}),
    "lstm": case("lstm", rows(lambda P, D: P * D + 5 * even(D) * D + 9 * even(D) ** 2 + 17 * even(D) + D)),
    "residual": case("residual", rows(lambda P, D: P * D + 2 * 128 * D + 128 + 3 * D)),
    "residual bottleneck=5": case(
        "residual", rows(lambda P, D: P * D + 2 * 5 * D + 5 + 3 * D), settings={"bottleneck": "5"}
    ),
    "low-rank": case("low-rank", rows(lambda P, D: 10 * (P + D))),
    "low-rank rank=3": case("low-rank", rows(lambda P, D: 3 * (P + D)), settings={"rank": 3}),
    "ulpt": case("ulpt", rows(lambda P, D: 64 * P + 2 * D)),
    "ulpt rank=2": case("ulpt", rows(lambda P, D: 2 * P + 2 * D), settings={"rank": 2}),
    "superpos": case("superpos", lambda spec: len(spec.vocabulary) * rows(lambda P, D: P * (D + 1))(spec)),
    "mixture": case("mixture", rows(lambda P, D: 4 * P * D + 4)),
    "mixture prompts=3": case("mixture", rows(lambda P, D: 3 * P * D + 3), settings={"prompts": 3}),
    "deep": case("deep", layered(lambda P, W: P * W)),
    "deep frozen=1": case("deep", layered(lambda P, W: (P - 1) * W), settings={"frozen": 1}),
    "deep layers=1": case("deep", layered(lambda P, W: P * W, only={1}), settings={"layers": 1}),
    "deep-mlp": case("deep-mlp", layered(lambda P, W: P * 512 + 512 * 512 + 512 + 512 * W + W)),
    "deep-mlp hidden=6 frozen=1": case(
        "deep-mlp", layered(lambda P, W: (P - 1) * 6 + 36 + 6 + 6 * W + W), settings={"hidden": 6, "frozen": 1}
    ),
    "direct + rows": Case(with_rows, rows(lambda P, D: P * D + CLASSES * D + CLASSES)),
}
SHAPED = tuple(check for check in CHECKS if check not in (contract.check_learns, contract.check_moves))


def spec_of(name, size=SIZE, **options):
    return case(name, lambda spec: 0, **options).spec(size)


def test_every_registered_name_is_held_to_the_contract():
    assert {key.split()[0] for key in CASES} == set(PARAMETERIZATIONS)


@pytest.mark.parametrize("check", [contract.check_moves, *SHAPED], ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", CASES)
def test_it_keeps_the_contract(name, check):
    check(CASES[name])


@pytest.mark.parametrize("name", [name for name in CASES if "=" not in name])
def test_it_learns_at_the_usual_rate(name):
    contract.check_learns(CASES[name])


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=3, deadline=None)
@given(
    size=st.builds(
        Size, length=st.integers(2, 9), width=st.integers(2, 20), layers=st.integers(2, 3), heads=st.integers(1, 3)
    )
)
def test_it_keeps_the_contract_in_every_shape(name, size):
    for check in SHAPED:
        check(CASES[name], size)


def test_the_suite_tells_what_is_broken():
    for check, broken, message in BROKEN:
        with pytest.raises(AssertionError, match=message):
            check(Case(lambda spec, broken=broken: broken(spec.initial["input"]), rows(lambda P, D: P * D)))


class Shifted(DirectPrompt):
    def materialize(self):
        return {"input": self.virtual_tokens + 1e-6}


class Unsteady(DirectPrompt):
    def materialize(self):
        return {"input": self.virtual_tokens + torch.rand(())}


class Nowhere(DirectPrompt):
    def materialize(self):
        return {"inputs": self.virtual_tokens}


class Large(DirectPrompt):
    def __init__(self, initial):
        super().__init__(initial)
        self.other = torch.nn.Parameter(torch.zeros(1))


class Idle(Large):
    def groups(self):
        return (*super().groups(), Group((self.other,), 1.0))


class Twice(DirectPrompt):
    def groups(self):
        return super().groups() * 2


class Still(DirectPrompt):
    def groups(self):
        return (Group((self.virtual_tokens,), 0.0),)


class Slow(DirectPrompt):
    def groups(self):
        return (Group((self.virtual_tokens,), 1e-3),)


class Forgetful(DirectPrompt):
    def __init__(self, initial):
        super().__init__(initial)
        self.noise = torch.rand(())

    def materialize(self):
        return {"input": self.virtual_tokens + self.noise}


class Noisy(Forgetful):
    def __init__(self, initial):
        super().__init__(initial)
        self.register_buffer("seen", torch.rand(()))


class Half(DirectPrompt):
    def __init__(self, initial):
        super().__init__(initial)
        self.virtual_tokens = torch.nn.Parameter(initial.to(torch.bfloat16))


BROKEN = [
    (contract.check_start, Shifted, "`input` does not start at its first values"),
    (contract.check_folds, Unsteady, "`input` folds differently the second time"),
    (contract.check_folds, Nowhere, "a tensor `inputs`, which is no site"),
    (contract.check_folds, Half, "`input` is torch.bfloat16"),
    (contract.check_parameter_count, Large, "97 parameters, and 96 by the formula"),
    (contract.check_groups, Large, "in no group: other"),
    (contract.check_groups, Twice, "in more than one group: virtual_tokens"),
    (contract.check_groups, Still, "a group's scale is not above 0"),
    (contract.check_groups, Half, "`virtual_tokens` is torch.bfloat16"),
    (contract.check_gradients, Idle, "no gradient reaches `other`"),
    (contract.check_state, Forgetful, "`input` is not the same after loading"),
    (contract.check_determinism, Noisy, "building draws from the global random state"),
    (contract.check_moves, Slow, "`input` moves 0.00 times as far"),
    (contract.check_learns, Slow, "30 steps bring the toy loss from"),
]


def moved(name, steps=3, **given):
    """The spec, and a module of it after some steps."""
    spec = spec_of(name, settings=given)
    module = build(name, spec)
    contract._move(module, steps)
    return spec, module


def test_the_default_rate_of_free_tokens_is_relative_to_the_embeddings():
    assert build("direct", spec_of("direct")).groups()[0].scale == 0.7
    assert DirectPrompt(torch.ones(2, 3)).groups()[0].scale == 1.0


def test_low_rank_moves_in_few_directions():
    spec, module = moved("low-rank", rank=2)
    assert torch.linalg.matrix_rank(folded(module)["input"] - spec.initial["input"], rtol=1e-5) == 2


def test_ulpt_is_the_stretched_and_shifted_projection():
    spec, module = moved("ulpt", rank=2)
    unshifted = (folded(module)["input"] - spec.initial["input"]) / spec.rms - module.shift
    assert torch.linalg.matrix_rank((unshifted / module.stretch).detach(), rtol=1e-4) == 2


def test_superpos_is_the_papers_superposition():
    spec, module = moved("superpos")
    paper = torch.einsum("pmd,pm->pd", module.vocabulary + module.residual, module.weights + module.change)
    expected = spec.initial["input"] + paper - module.weights @ module.vocabulary
    assert torch.allclose(folded(module)["input"], expected, atol=1e-5)


def test_mixture_is_a_weighted_mean_of_its_prompts():
    spec, module = moved("mixture")
    weights = torch.softmax(module.scores, 0)
    prompts = spec.initial["input"] + module.spread + module.change
    assert torch.allclose(folded(module)["input"], torch.einsum("n,npd->pd", weights, prompts), atol=1e-5)
    assert weights.max() > 0.26


def test_residual_is_the_papers_network_beside_the_tokens():
    spec, module = moved("residual", bottleneck=4)
    own, network = module.virtual_tokens, module.network
    hidden = torch.relu(own / spec.rms @ network.inner.T + network.inner_bias)
    out = hidden @ network.outer.T + network.outer_bias
    centred = out - out.mean(-1, keepdim=True)
    normal = centred / (out.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    expected = own + spec.rms * (normal * module.gain + module.shift)
    assert torch.allclose(folded(module)["input"], expected, atol=1e-5)


@pytest.mark.parametrize("name", ["deep", "deep-mlp"])
def test_frozen_tokens_do_not_move_even_under_weight_decay(name):
    spec = spec_of(name, settings={"frozen": 2})
    module = build(name, spec)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1, weight_decay=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        contract._loss(module).backward()
        optimizer.step()
    for site, tensor in folded(module).items():
        assert torch.equal(tensor[:, :2], spec.initial[site][:, :2])
        assert (tensor[:, 2:] != spec.initial[site][:, 2:]).all()


@pytest.mark.parametrize("name", ["deep", "deep-mlp"])
def test_layers_that_do_not_train_stay_and_are_kept(name):
    size = SIZE._replace(layers=4)
    spec = spec_of(name, size, settings={"layers": "0,2-3"})
    module = build(name, spec)
    contract._move(module, 3)
    found = module.materialize()
    assert list(found) == list(spec.initial)
    for site, tensor in found.items():
        stays = site.startswith("layers.1.")
        assert torch.equal(tensor, spec.initial[site]) == stays
        assert tensor.requires_grad != stays


def test_each_key_and_value_has_the_rate_of_its_own_size():
    spec = spec_of("deep", settings={"frozen": 1})
    scales = [group.scale for group in build("deep", spec).groups()]
    expected = [float(tensor[:, 1:].pow(2).mean().sqrt()) for tensor in spec.initial.values()]
    assert scales == pytest.approx(expected)
    assert max(scales) > 10 * min(scales)


def test_learned_rows_have_a_tenth_of_the_rate():
    weight = torch.full((3, 8), 2.0)
    module = PromptWithRows(DirectPrompt(torch.ones(2, 8), 0.5), weight, torch.zeros(3))
    assert [group.scale for group in module.groups()] == pytest.approx([0.5, 0.2, 1.0])
    assert torch.equal(module.materialize()["readout.weight"], weight)
    assert module.name == "direct + rows"


def test_first_values_of_any_dtype_are_trained_in_fp32():
    low = Spec({"input": torch.ones(4, 8, dtype=torch.bfloat16)}, 1.0, torch.Generator())
    for name in ("direct", "mlp", "lstm", "residual", "low-rank", "ulpt", "mixture"):
        assert folded(build(name, low))["input"].dtype == torch.float32


def test_smop_is_refused_with_the_reason_and_an_offer():
    with pytest.raises(ConfigError, match=r"`smop` .* row by row, so it cannot fold .*choose `mixture`"):
        build("smop", spec_of("direct"))


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(UnknownNameError, match="unknown parameterization `low-rnak`; did you mean `low-rank`"):
        build("low-rnak", spec_of("direct"))


@pytest.mark.parametrize("name", sorted(PARAMETERIZATIONS))
def test_an_unknown_setting_is_refused(name):
    with pytest.raises(UnknownNameError, match=f"unknown setting of `{name}`: `colour`; "):
        build(name, spec_of(name, settings={"colour": 3}))


def test_an_unknown_setting_is_told_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean `bottleneck`"):
        build("residual", spec_of("residual", settings={"botleneck": 3}))


@pytest.mark.parametrize("value", [0, -1, 1.5, "ten", True])
def test_a_setting_must_be_a_whole_number(value):
    with pytest.raises(ConfigError, match=f"setting `rank` of `ulpt` is {value!r}; give a whole number from 1"):
        build("ulpt", spec_of("ulpt", settings={"rank": value}))


def test_zero_frozen_tokens_are_fine_and_fewer_are_not():
    assert build("deep", spec_of("deep", settings={"frozen": 0}))
    with pytest.raises(ConfigError, match="setting `frozen` of `deep` is -1; give a whole number from 0"):
        build("deep", spec_of("deep", settings={"frozen": -1}))


@pytest.mark.parametrize("name", ["deep", "deep-mlp"])
def test_deep_prompts_need_keys_and_values(name):
    with pytest.raises(ConfigError, match=f"`{name}` starts from the keys and values .* the first values are `input`;"):
        build(name, spec_of("direct"))


def test_the_others_need_rows():
    found = "`layers.0.key`, `layers.0.value`, `layers.1.key`, ..."
    for name in set(PARAMETERIZATIONS) - {"deep", "deep-mlp"}:
        with pytest.raises(
            ConfigError, match=f"`{name}` starts from rows at `input`, and the first values are {found}"
        ):
            build(name, spec_of("deep"))


def test_superpos_needs_vocabulary_rows_of_its_backbone():
    rows = {"input": torch.ones(2, 8)}
    with pytest.raises(ConfigError, match="`superpos` needs embedded rows of sampled tokens, and none were given"):
        build("superpos", Spec(rows, 1.0, torch.Generator()))
    with pytest.raises(ConfigError, match="vocabulary rows of width 9 for first values of width 8"):
        build("superpos", Spec(rows, 1.0, torch.Generator(), torch.ones(3, 9)))


@pytest.mark.parametrize("rms", [0.0, -1.0, float("nan"), float("inf")])
def test_the_unit_of_the_rate_must_be_above_zero(rms):
    with pytest.raises(ConfigError, match=r"the embeddings' RMS is .*; it is the unit of the rate"):
        Spec({"input": torch.ones(2, 8)}, rms, torch.Generator())


def test_lstm_needs_an_even_width():
    with pytest.raises(ConfigError, match="setting `hidden` of `lstm` is 5; half goes each way"):
        build("lstm", spec_of("lstm", settings={"hidden": 5}))


@pytest.mark.parametrize("written", ["all", "1-", "1;2", "-1", 1.5])
def test_layers_are_written_in_one_way(written):
    with pytest.raises(ConfigError, match=f"setting `layers` of `deep` is `{written}`; write layers like `0-3,7`"):
        build("deep", spec_of("deep", settings={"layers": written}))


@pytest.mark.parametrize(("layers", "asked"), [("0-3", "2, 3"), ("1-0", "none")])
def test_layers_must_be_there(layers, asked):
    with pytest.raises(ConfigError, match=f"layers to train: {asked} asked for; there are layers 0 to 1"):
        build("deep", spec_of("deep", settings={"layers": layers}))


def test_one_token_must_be_left_to_train():
    with pytest.raises(ConfigError, match="6 virtual tokens are to stay frozen and there are 6; leave at least one"):
        build("deep", spec_of("deep", settings={"frozen": 6}))


def test_a_layer_of_zeros_has_no_rate():
    start = {"layers.0.key": torch.ones(1, 2, 4), "layers.0.value": torch.zeros(1, 2, 4)}
    with pytest.raises(ConfigError, match=r"`layers.0.value` is zero everywhere"):
        DeepPrompt(start)


def test_keys_and_values_must_fit_each_other():
    with pytest.raises(ConfigError, match=r"a deep prompt cannot start .*: it has `layers.0.key` without"):
        DeepPrompt({"layers.0.key": torch.ones(1, 2, 4)})


def test_learned_rows_and_biases_go_together():
    prompt = DirectPrompt(torch.ones(2, 8))
    with pytest.raises(ConfigError, match="3 learned rows came with 2 biases; each label needs one of each"):
        PromptWithRows(prompt, torch.ones(3, 8), torch.zeros(2))
    with pytest.raises(ConfigError, match="the learned rows are zero everywhere"):
        PromptWithRows(prompt, torch.zeros(3, 8), torch.zeros(3))


def test_the_names_can_be_listed_without_torch():
    code = (
        "import sys; from softprompt.prompts.parameterizations.registry import PARAMETERIZATIONS; "
        "assert 'ulpt' in PARAMETERIZATIONS; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
