import pytest
import torch

from expander_sae.ops import Codes
from expander_sae.pursuit import Encoder
from expander_sae.records import ExpanderSaeError
from expander_sae.saes import DenseTopKSae, ExpanderSae, initialise, input_statistics, ordinary_tokens


def make(kind: str, **options):
    if kind == "expander":
        return ExpanderSae(d_in=40, n_latents=300, degree=5, k=6, **{"reading": Encoder(), **options})
    return DenseTopKSae(d_in=40, n_latents=100, k=6, tied=kind == "tied", **options)


KINDS = ["expander", "tied", "untied"]


@pytest.mark.parametrize("kind", KINDS)
def test_fused_loss_and_gradients_equal_autograd_through_the_model(kind):
    torch.manual_seed(0)
    sae, x = make(kind, latent_bias=True), torch.randn(50, 40)
    assert sae.b_enc is not None
    with torch.no_grad():
        sae.b_dec.normal_()
        sae.b_enc.normal_()
        sae.input_scale.fill_(0.7)
    (x - sae(x)).square().sum().backward()
    want = {name: parameter.grad.clone() for name, parameter in sae.named_parameters() if parameter.grad is not None}
    sae.zero_grad()
    out = sae.reconstruction_loss(x)
    out.loss.backward()
    for name, parameter in sae.named_parameters():
        assert parameter.grad is not None
        assert (parameter.grad - want[name]).abs().max() < 1e-5 * want[name].abs().max(), name


@pytest.mark.parametrize("kind", KINDS)
def test_folding_the_input_scale_changes_no_output(kind):
    torch.manual_seed(0)
    sae, x = make(kind, latent_bias=True), torch.randn(20, 40) * 50
    initialise(sae, input_statistics(torch.randn(500, 40) * 50 + 9))
    before, scale = sae(x), float(sae.input_scale)
    assert scale != 1.0
    sae.fold_input_scale()
    assert float(sae.input_scale) == 1.0
    torch.testing.assert_close(sae(x), before, rtol=1e-4, atol=1e-3)


def test_columns_have_unit_length_and_the_cache_follows_the_parameter():
    sae = make("expander")
    with torch.no_grad():
        torch.testing.assert_close(sae.values.norm(dim=1), torch.ones(300))
        sae.columns.raw.mul_(torch.arange(1, 301)[:, None])
        sae.columns.raw[0] = torch.tensor([3.0, 4.0, 0.0, 0.0, 0.0])
        torch.testing.assert_close(sae.values[0], torch.tensor([0.6, 0.8, 0.0, 0.0, 0.0]))


def test_relu_by_default_and_negative_codes_when_signed():
    x = torch.randn(30, 40, generator=torch.Generator().manual_seed(0))
    few = ExpanderSae(d_in=40, n_latents=8, degree=5, k=8, reading=Encoder())
    assert (few.encode(x).values >= 0).all()
    assert (ExpanderSae(d_in=40, n_latents=8, degree=5, k=8, signed=True, reading=Encoder()).encode(x).values < 0).any()


def test_codes_decode_to_the_sum_of_their_columns():
    sae = make("expander")
    codes = Codes(torch.tensor([[7, 3]]), torch.tensor([[2.0, -1.0]]))
    dense = torch.zeros(40)
    with torch.no_grad():
        for latent, code in ((7, 2.0), (3, -1.0)):
            dense[sae.rows[latent].long()] += code * sae.values[latent]
        torch.testing.assert_close(sae.decode(codes)[0], dense)


def test_counts_of_learned_numbers():
    assert make("expander", latent_bias=True).learned_values() == 5 * 300 + 300 + 40
    assert make("expander").decoder_values() == 5 * 300
    assert make("tied").learned_values() == 40 * 100 + 40
    assert make("untied").learned_values() == 2 * 40 * 100 + 40


@pytest.mark.parametrize("kind", KINDS)
def test_point_latent(kind):
    sae, direction = make(kind, latent_bias=True), torch.arange(40.0)
    assert sae.point_latent(4, direction)
    with torch.no_grad():
        column = sae.decode(Codes(torch.tensor([[4]]), torch.ones(1, 1)))[0]
    seen = column != 0
    cosine = (column @ torch.where(seen, direction, 0.0)) / torch.where(seen, direction, 0.0).norm()
    assert cosine == pytest.approx(1.0, abs=1e-5)
    assert not sae.point_latent(4, torch.zeros(40))


@pytest.mark.parametrize("kind", KINDS)
def test_point_latent_at_a_raw_length(kind):
    sae = make(kind)
    sae.point_latent(4, torch.arange(40.0), 0.25)
    assert sae.columns.raw[4].norm().item() == pytest.approx(0.25)
    assert sae.values[4].norm().item() == pytest.approx(1.0)


@pytest.mark.parametrize("tied", [True, False])
def test_a_sparse_sae_can_start_at_the_values_of_the_dense_one(tied):
    sparse = ExpanderSae(d_in=40, n_latents=300, degree=5, k=8, seed=3, tied=tied, reading=Encoder())
    drawn_alone = sparse.columns.raw.detach().clone()
    sparse.draw_as_dense()
    dense = DenseTopKSae(d_in=40, n_latents=300, k=8, seed=3)
    on_the_mask = dense.columns.raw.detach().gather(1, sparse.rows.long())
    torch.testing.assert_close(sparse.columns.raw.detach() / on_the_mask, torch.full((300, 5), 8**0.5))
    assert not torch.allclose(sparse.columns.raw.detach(), drawn_alone)
    if not tied:
        torch.testing.assert_close(sparse.encoder.detach(), sparse.values.detach())


def test_outliers_do_not_drag_the_statistics():
    x = torch.randn(1000, 16, generator=torch.Generator().manual_seed(0)) + 2
    giant = torch.cat([x, torch.full((3, 16), 1e5)])
    clean, dirty = input_statistics(x), input_statistics(giant)
    torch.testing.assert_close(dirty.mean, clean.mean)
    assert dirty.scale == pytest.approx(clean.scale)
    assert dirty.outliers == 3
    assert ordinary_tokens(giant).sum() == 1000


def test_wrong_sizes_are_refused():
    with pytest.raises(ExpanderSaeError, match="k <= n_latents"):
        ExpanderSae(d_in=8, n_latents=4, degree=2, k=5, reading=Encoder())
    with pytest.raises(ExpanderSaeError, match="d_in=40"):
        make("expander").encode(torch.zeros(3, 41))
    with pytest.raises(ExpanderSaeError, match="finite"):
        input_statistics(torch.full((4, 4), float("nan")))


@pytest.mark.parametrize("evaluating", [True, False])
def test_a_fused_optimiser_step_is_seen_at_once(evaluating):
    """Fused optimisers do not raise a parameter's version; values kept from before the step would be stale."""
    sae = make("expander").train(not evaluating)
    optimizer = torch.optim.Adam(sae.parameters(), lr=0.1, fused=True)
    x = torch.randn(20, 40, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        sae(x)
    sae.reconstruction_loss(x).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    with torch.no_grad():
        torch.testing.assert_close(sae.values, sae.columns.raw / sae.columns.raw.norm(dim=1, keepdim=True))


def _assign(columns, new):
    columns.load_state_dict({"raw": new}, assign=True)


def _move(columns, new):
    columns.raw.data = torch.empty_like(new)  # memory that is free again when the next array is made
    columns.raw.data = new


def _replace(columns, new):
    columns.raw = torch.nn.Parameter(new)


def _write(columns, new):
    columns.raw.copy_(new)


@pytest.mark.parametrize("change", [_assign, _move, _replace, _write])
def test_columns_kept_in_eval_mode_are_dropped_whatever_changes_them(change):
    columns = make("expander").eval().columns
    with torch.no_grad():
        before = columns()
        assert columns() is before
        new = torch.randn(columns.raw.shape, generator=torch.Generator().manual_seed(1))
        change(columns, new)
        torch.testing.assert_close(columns(), new / new.norm(dim=1, keepdim=True))
        assert columns() is columns()
