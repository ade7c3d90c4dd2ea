# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Derivatives that come forward: torch calls operators without them, and says nothing."""

import pytest
import torch
from calls import CALLS, changed, tensors_of
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from attnpatch.ops import library
from attnpatch.ops.attend import takes

# torch makes some of its own derivatives by what it warns of.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:FutureWarning")


@pytest.mark.parametrize("name", CALLS)
def test_tangents_are_those_of_the_gradients(name):
    forms, arguments = library.forms_of(name), CALLS[name]()
    tangent = torch.randn_like(arguments[0])

    def results(first):
        found = library.call(forms.operator, forms.reference, *changed(arguments, 0, first))
        return tensors_of(found)

    # The only one of torch's attentions that has tangents.
    with forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH):
        outputs = results(forward_ad.make_dual(arguments[0], tangent))
        forward = [forward_ad.unpack_dual(output).tangent for output in outputs]
    leaf = arguments[0].clone().requires_grad_()
    weights = [torch.randn_like(output) for output in outputs]
    (gradient,) = torch.autograd.grad(results(leaf), leaf, weights)
    expected = (gradient * tangent).sum()
    found = sum((weight * one).sum() for weight, one in zip(weights, forward, strict=True))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_an_attention_without_tangents_says_so():
    forms, arguments = library.forms_of("branch_attention"), CALLS["branch_attention"]()
    with forward_ad.dual_level(), sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        dual = forward_ad.make_dual(arguments[0], torch.ones_like(arguments[0]))
        with pytest.raises(NotImplementedError, match="forward AD"):
            library.call(forms.operator, forms.reference, *changed(arguments, 0, dual))


def test_kept_branches_are_not_for_tangents():
    q, k, v = (torch.randn(1, n, 8) for n in (5, 3, 3))
    assert takes(q, k, v)
    with forward_ad.dual_level():
        assert takes(q, k, v)
        assert not takes(q, k, forward_ad.make_dual(v, torch.ones_like(v)))
