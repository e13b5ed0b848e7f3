#!/usr/bin/env python3
"""w6dag.py [DAG] > w6dag.yaml: a stage for each of 2000 commands in 20 layers, each after three of the layer before it.

Without DAG (a file with a line per node: its number, then those it comes after) the graph is made from a fixed seed.
"""
import sys
from pathlib import Path

LAYERS, WIDTH, DEPENDENCIES, SEED = 20, 100, 3, 6


def nodes(path: str | None) -> list[list[int]]:
    if path:
        return [[int(word) for word in line.split()] for line in Path(path).read_text().splitlines()]
    import numpy as np

    rng = np.random.default_rng(SEED)
    made = []
    for layer in range(LAYERS):
        for at in range(WIDTH):
            before = sorted(rng.choice(WIDTH, DEPENDENCIES, replace=False) + (layer - 1) * WIDTH) if layer else []
            made.append([layer * WIDTH + at, *map(int, before)])
    return made


def main() -> None:
    print("version: 1\nname: w6dag")
    print("description: Made by w6dag.py. Each command fails if what it comes after has not left its file.")
    print("params:\n  in: { type: path, default: dag, description: The graph, for the other contenders; here it is in the stages. }")
    print("stages:")
    for node, *before in nodes(sys.argv[1] if len(sys.argv) > 1 else None):
        tests = "".join(f"[ -e n{other} ] && " for other in before)
        after = f", after: [{', '.join(f't{other}' for other in before)}]" if before else ""
        command = f"command: [sh, -c, '{tests}echo n{node} > n{node}']"
        print(f"  t{node}: {{ {command}{after}, cwd: \"${{{{ env.PWD }}}}\" }}")


if __name__ == "__main__":
    main()
