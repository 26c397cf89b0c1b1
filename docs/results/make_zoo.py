"""Put a system of an ablation into the zoo:  python docs/results/make_zoo.py RUN PREPARED NAME [--arm ARM] [--about TEXT] [--half]

Export into docs/results/zoo/NAME (or where FOREGUARD_ZOO says), its SHA-256 and its published figures into pipeline/runs/zoo.json.
"""

import argparse
import tempfile
from pathlib import Path

from pipeline.sharing.zoo import enter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("prepared", type=Path)
    parser.add_argument("name")
    parser.add_argument("--arm", help="by its name in ablation.json; without: the one that the answer is about")
    parser.add_argument("--about", help="what it is; without: the experiment and the arm")
    parser.add_argument("--half", action="store_true", help="weights in half precision, if no verdict changes")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        entry = enter(
            words.run,
            words.name,
            prepared=words.prepared,
            arm=words.arm,
            about=words.about,
            half=words.half,
            scratch=Path(scratch) / "evaluation",
        )
    print(f"zoo:{words.name}: {entry.about}; {', '.join(f'{one.right}/{one.images}' for one in entry.figures)}")


if __name__ == "__main__":
    main()
