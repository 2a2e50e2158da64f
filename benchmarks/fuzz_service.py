"""Tries to break `fs serve`: damaged images by the thousand, and requests made from its OpenAPI.

Photographs are generated and embedded with the first convolution block of a small random VGG16; a
head is trained, and `fs serve` runs in a process of its own on that cache. Then

- mutated images (see `featurestore.testing.mutated_images`) are sent to embed, predict and find
  neighbours, and after them images of each format that are as large as the limit allows;
- with --schemathesis, its command-line tool tests the description of the service instead: examples,
  boundaries, random data right and wrong, and chains of requests.

An answer of 500 or more, a broken connection, a service that ended, or other features of a good
image than before is a failure. Memory is sampled ten times a second, of the service with its
children, pages that they share counted for each. Run from the project's root:

    python benchmarks/fuzz_service.py [--images 10000] [--seed 0] [--clients 4]
    python benchmarks/fuzz_service.py --schemathesis [--examples 300]
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from commands import fs, run_json

from featurestore.catalogue import Catalogue
from featurestore.service.contract import Limits
from featurestore.testing.fuzzing import NPY, Fuzzer, FuzzReport, good_image
from featurestore.testing.images import write_image_folder
from featurestore.testing.mutated_images import bombs, large_images
from featurestore.testing.served_process import ServedProcess, served_process

MIB = 2**20


def prepare(root: Path) -> tuple[Path, str, str]:
    """Return a cache, and the names of its feature set and its run."""
    cache = root / "cache"
    write_image_folder(root / "photos", splits={"train": 40, "validation": 10, "test": 10})
    made = run_json(
        fs(
            "embed", root / "photos", "--layer", "block1_pool", "--size", "32", "--weights",
            "random:0", "--cache", cache, "--json",
        )
    )  # fmt: skip
    run = run_json(fs("train", "photos", "--head", "nearest-centroid", "--cache", cache, "--json"))
    return cache, made["feature_set"], run["run"]


def features_of(fuzzer: Fuzzer, number: int) -> bytes:
    """Return the features of a good image as the service computes them."""
    status, body = fuzzer.post(good_image(number), accept=NPY)
    if status != 200:
        raise SystemExit(f"a good image was answered {status}: {body.decode(errors='replace')}")
    return body


def memory(served: ServedProcess) -> str:
    """Return what the service and its children hold now."""
    now = served.memory.now()
    own = now.pop(served.process.pid, 0)
    return f"{own / MIB:.0f} MiB, its {len(now)} children {sum(now.values()) / MIB:.0f} MiB"


def send_mutated(served: ServedProcess, fuzzer: Fuzzer, *, images: int, clients: int) -> FuzzReport:
    """Send mutated images, and print how it goes."""
    before = features_of(fuzzer, 1)
    print(f"before: the service {memory(served)}", flush=True)
    begun = time.monotonic()
    step = max(1, images // 5)
    for start in range(0, images, step):
        fuzzer.send(range(start, min(images, start + step)), clients=clients)
        print(f"after {min(images, start + step)}: {memory(served)}", flush=True)
    seconds = time.monotonic() - begun
    print(f"{images} images in {seconds:.0f} s, {images / seconds:.0f}/s")
    print(f"peak {served.memory.peak_bytes / MIB:.0f} MiB, of one child at most "
          f"{served.memory.largest_child_bytes / MIB:.0f} MiB")  # fmt: skip
    if features_of(fuzzer, 2) != before:
        fuzzer.report.failures.append("a good image has other features than before")
    return fuzzer.report


def send_large(served: ServedProcess, fuzzer: Fuzzer) -> None:
    """Send images that really have as many pixels as the limit allows, and some beyond."""
    for name, content in bombs().items():
        status, _ = fuzzer.post(content)
        if status != 413:
            fuzzer.report.failures.append(f"bomb of {name}: {status}")
    for name, content in large_images(math.isqrt(Limits().pixels)).items():
        begun = time.monotonic()
        status, body = fuzzer.post(content)
        reason = json.loads(body)["results"][0].get("reason", "features") if status == 200 else ""
        if status not in (200, 413):
            fuzzer.report.failures.append(f"large {name}: {status}")
        print(f"large {name}, {len(content):,} bytes: {status} {reason} "
              f"in {time.monotonic() - begun:.1f} s")  # fmt: skip
    print(f"after large images: {memory(served)}; peak {served.memory.peak_bytes / MIB:.0f} MiB, "
          f"of one child at most {served.memory.largest_child_bytes / MIB:.0f} MiB")  # fmt: skip


def print_report(report: FuzzReport) -> None:
    """Print answers by path and status, what was said, and what should not have been."""
    for (path, status), count in sorted(report.statuses.items()):
        print(f"{path:12} {status} {count:6}")
    for said, count in report.outcomes.most_common(20):
        print(f"{count:6} {said}")
    for failure in report.failures[:50]:
        print(f"FAILED {failure}")


def schemathesis_config(cache: Path, *, name: str, run: str) -> str:
    """Return a configuration by which most requests name what is there."""
    dataset, recipe = name.split("/")
    store = Catalogue(cache).find(name).store.name
    known = {
        "path.dataset": [dataset],
        "path.recipe": [recipe],
        "path.start": [dataset],
        "path.run": [run],
        "path.store": [store, f"{store}.json", f"{store}.sha256"],
        "path.path": ["zarr.json", "test/labels/c/0"],
        "path.name": ["run.json", "probabilities-test.npz"],
        "path.split": ["train", "test"],
        "query.split": ["train", "test"],
        "query.recipe": [recipe],
        "query.run": [run],
    }
    lines = ["[cache]", "enabled = false"]
    for number, (parameter, values) in enumerate(known.items()):
        lines += [f"[dictionaries.known{number}]", f"values = {json.dumps(values)}"]
        lines += [f'[parameters."{parameter}"]', f'dictionary = "known{number}"']
        lines += ["probability = 0.8"]
    return "\n".join(lines)


def run_schemathesis(served: ServedProcess, config: Path, *, examples: int, seed: int) -> int:
    """Run its command-line tool on the served description; return its exit code."""
    program = "from schemathesis.cli import schemathesis; schemathesis()"
    command = [
        sys.executable, "-c", program, "--config-file", str(config), "run",
        f"{served.url}/openapi.json", "--max-examples", str(examples), "--seed", str(seed),
        "--checks", "not_a_server_error,status_code_conformance,content_type_conformance,"
        "response_schema_conformance,response_headers_conformance,allow_header_conformance",
        "--continue-on-failure", "--no-color", "--request-timeout", "60",
    ]  # fmt: skip
    return subprocess.run(command, check=False).returncode


def main() -> None:
    """Serve, send and print; ends with 1 after a failure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--schemathesis", action="store_true")
    parser.add_argument("--examples", type=int, default=300, help="of each operation")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        cache, name, run = prepare(Path(scratch))
        with served_process(cache, tiny=None) as served:
            fuzzer = Fuzzer(served.url, feature_set=name, run=run, seed=arguments.seed)
            fuzzer.warm_up()  # TensorFlow is imported
            if arguments.schemathesis:
                config = Path(scratch) / "schemathesis.toml"
                config.write_text(schemathesis_config(cache, name=name, run=run))
                code = run_schemathesis(
                    served, config, examples=arguments.examples, seed=arguments.seed
                )
                raise SystemExit(code)
            report = send_mutated(
                served, fuzzer, images=arguments.images, clients=arguments.clients
            )
            send_large(served, fuzzer)
            print_report(report)
    raise SystemExit(1 if report.failures else 0)


if __name__ == "__main__":
    main()
