"""Resample a timeline by its length alone, as the seed's functions do: u = i * (T_in - 1) / (T_out - 1)."""

import torch

from kvlab.errors import AlignError
from kvlab.language import Message
from kvlab.request.time_rules import linear, nearest


def linear_indices(t_in: int, t_out: int) -> torch.Tensor:
    """Return ``nearest.linear_indices`` [T_out]: in [0, T_in), or all -1 where the input is empty."""
    _check_lengths(t_in, t_out)
    return torch.from_numpy(nearest.linear_indices(t_in, t_out))


def safe_time_resample(x: torch.Tensor, t_out: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Resample to the nearest step, [..., T_in, D] -> [..., T_out, D]; also return signal [T_out] bool.

    An empty timeline gives zeros with signal False everywhere: no teacher signal, to be masked in a loss.
    """
    indices = linear_indices(x.shape[-2], t_out).to(x.device)
    signal = indices >= 0
    if x.shape[-2] == 0:
        return x.new_zeros(*x.shape[:-2], t_out, x.shape[-1]), signal
    return x.index_select(-2, indices), signal


def resample_kv_with_interpolation(
    keys: torch.Tensor, values: torch.Tensor, t_out: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Interpolate keys and values linearly, [..., T_in, D] -> [..., T_out, D]; also return signal [T_out] bool.

    Equal to ``numpy.interp`` per channel. Works on keys before or after RoPE, but only before makes sense.
    """
    t_in = keys.shape[-2]
    if values.shape[-2] != t_in:
        raise AlignError(
            "time-length-mismatch",
            expected=Message("keys and values of one length"),
            found=Message("keys with T={keys} and values with T={values}", keys=t_in, values=values.shape[-2]),
            remedy=Message("pass the keys and values of the same cache layer"),
        )
    _check_lengths(t_in, t_out)
    signal = torch.full((t_out,), t_in > 0, device=keys.device)
    lower, upper, fraction = (torch.from_numpy(part).to(keys.device) for part in linear.interpolation(t_in, t_out))

    def interpolate(x: torch.Tensor) -> torch.Tensor:
        if t_in == 0:
            return x.new_zeros(*x.shape[:-2], t_out, x.shape[-1])
        weight = fraction.to(x.dtype).unsqueeze(-1)
        return torch.lerp(x.index_select(-2, lower), x.index_select(-2, upper), weight)

    return interpolate(keys), interpolate(values), signal


def _check_lengths(t_in: int, t_out: int) -> None:
    if t_in < 0 or t_out < 0:
        raise AlignError(
            "time-negative-length",
            expected=Message("lengths of 0 or more steps"),
            found=f"T_in={t_in}, T_out={t_out}",
            remedy=Message("pass the lengths of the two timelines"),
        )
