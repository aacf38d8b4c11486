"""The processes that share one piece of work, and what they exchange: every call to a collective is here."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from expander_sae.records import ExpanderSaeError


class Ranks:
    """The processes ("ranks") that share one piece of work; one of them is this one.

    Where there is one, nothing is exchanged, and every result is the argument itself. Otherwise each method is a
    collective: all ranks call the same ones in the same order.

    Args:
        group: of `torch.distributed`; None: this process is alone.

    Example:
        >>> ALONE.first, ALONE.size, ALONE.share(torch.arange(4)).tolist()
        (True, 1, [0, 1, 2, 3])
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self._group = group
        self.rank, self.size = (0, 1) if group is None else (dist.get_rank(group), dist.get_world_size(group))
        self.bytes = 0
        """Handed to collectives by this rank so far."""

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes and prints."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there is one rank."""
        return self._group is None

    def share(self, x: Tensor) -> Tensor:
        """This rank's rows of x [batch, ...]: shares are consecutive, and differ by one row at most."""
        return x if self.alone else x.tensor_split(self.size)[self.rank]

    def add_up(self, *tensors: Tensor) -> None:
        """Replace each tensor by its sum over ranks: all of them in one all-reduce; of one type and device."""
        if self.alone or not tensors:
            return
        in_place = len(tensors) == 1 and tensors[0].is_contiguous()
        flat = tensors[0] if in_place else torch.cat([tensor.reshape(-1) for tensor in tensors])
        self._count(flat)
        dist.all_reduce(flat, group=self._group)
        if in_place:
            return
        for tensor, total in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(total.view_as(tensor))

    def total(self, x: Tensor) -> Tensor:
        """The sum of x over ranks."""
        if not self.alone:
            x = x.clone()
            self.add_up(x)
        return x

    def anywhere(self, flags: Tensor) -> Tensor:
        """Where some rank's flags, uint8 or bool, are set."""
        if self.alone:
            return flags
        found = flags.to(torch.uint8)
        self._count(found)
        dist.all_reduce(found, dist.ReduceOp.MAX, self._group)
        return found

    def any(self, flag: bool) -> bool:
        """Whether it is so on some rank."""
        return flag if self.alone else bool(self.anywhere(torch.tensor([flag], device="cpu")))

    def joined(self, x: Tensor) -> Tensor:
        """The rows of all ranks' x [rows, ...], those of the first rank first; ranks may have different numbers."""
        if self.alone:
            return x
        rows = [int(count) for count in self.everyone(len(x))]
        padded = x.new_zeros(max(rows), *x.shape[1:])
        padded[: len(x)] = x
        found = [torch.empty_like(padded) for _ in rows]
        self._count(padded)
        dist.all_gather(found, padded, self._group)
        return torch.cat([part[:count] for part, count in zip(found, rows, strict=True)])

    def everyone(self, value: Any) -> list[Any]:
        """Every rank's value, anything small that can be pickled, by rank."""
        if self.alone:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value, self._group)
        return found

    def agree(self, what: str, value: Any) -> None:
        """Raise on every rank unless all of them have the same value.

        Raises:
            ExpanderSaeError: they have not.
        """
        values = self.everyone(value)
        differing = [rank for rank, other in enumerate(values) if other != values[0]]
        if differing:
            raise ExpanderSaeError(
                f"expected the same {what} on every rank; got another one on rank {differing[0]} than on rank 0. Start "
                "all of them with the same command, versions and files, on machines of one kind."
            )

    def wait(self) -> None:
        """Until every rank is here."""
        self.everyone(None)

    def _count(self, payload: Tensor) -> None:
        self.bytes += payload.numel() * payload.element_size()


ALONE = Ranks()
