"""The maps of a run on disk: ``projector.safetensors``, with everything that going on needs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from kvlab.train import drafts
from kvlab.train.mapping import Affine, Fitted, Structured, structured
from kvlab.types import Geometry


def save(fitted: Sequence[Fitted], path: Path) -> None:
    """All maps of a run, of each teacher in turn. The file is replaced whole. Raises RunError ``disk-full``."""
    tensors, facts = {}, []
    for t, of_teacher in enumerate(fitted):
        facts.append({"rows": of_teacher.rows, "problems": []})
        for (kind, layer), module in of_teacher.maps.items():
            state = {"weight": module.weight, "bias": module.bias} if isinstance(module, Affine) else {}
            state |= dict(module.named_parameters())
            tensors |= {f"{t}.{kind}.{layer}.{n}": x.detach().cpu().contiguous() for n, x in state.items()}
            numbers = {name: getattr(of_teacher, name)[kind, layer] for name in ("layers", "scale", "variance", "r2")}
            kind_of_map = {Affine: "ridge", Structured: "structured"}.get(type(module), "identity")
            facts[-1]["problems"].append({"kind": kind, "layer": layer, "map": kind_of_map, **numbers})
    draft = path.with_name(f".{path.name}.tmp")
    with drafts.written(draft):
        save_file(tensors, draft, metadata={"kvlab": json.dumps(facts)})
        draft.replace(path)


def load(path: Path, teachers: Sequence[Geometry], student: Geometry) -> list[Fitted]:
    """What ``save`` wrote; a structured map starts anew, for its weights are the checkpoint's."""
    fitted = []
    with safe_open(path, framework="pt") as file:
        for t, facts in enumerate(json.loads(file.metadata()["kvlab"])):
            of_teacher = Fitted({}, {}, {}, {}, {}, rows=facts["rows"])
            for fact in facts["problems"]:
                problem = fact["kind"], fact["layer"]
                for name in ("scale", "variance", "r2"):
                    getattr(of_teacher, name)[problem] = fact[name]
                of_teacher.layers[problem] = tuple(fact["layers"])
                prefix = f"{t}.{fact['kind']}.{fact['layer']}"
                if fact["map"] == "ridge":
                    module = Affine(file.get_tensor(f"{prefix}.weight"), file.get_tensor(f"{prefix}.bias"))
                elif fact["map"] == "structured":
                    module = structured(teachers[t], student, problem, of_teacher.layers[problem])
                else:
                    module = nn.Identity()
                of_teacher.maps[problem] = module
            fitted.append(of_teacher)
    return fitted
