"""What may know what: read from the source, so that it holds for code no test runs."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Set
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(
    path
    for folder in ("schemas", "services")
    for path in (ROOT / folder).rglob("*.py")
    if "__pycache__" not in path.parts
)
STAGES = ("ingest", "transcribe", "enrich", "notify", "sink")

# Each is imported in one file; whoever needs it goes through that file.
HOME_OF = {
    "apprise": {"services/notify/chat.py"},
    # One decodes what comes in, the other encodes as telephones do.
    "av": {"services/evaluation/telephony.py", "services/runtime/audio.py"},
    "chdb": {"services/sink/warehouse.py"},
    "clickhouse_connect": {"services/sink/warehouse.py"},
    # Its client is shared by who reads and commits and by who looks.
    "confluent_kafka": {
        "services/runtime/kafka_client.py",
        "services/runtime/kafka_log.py",
        "services/runtime/kafka_view.py",
    },
    # One loads the model, another runs it; the doctor asks for GPUs.
    "ctranslate2": {
        "services/cli/gpu.py",
        "services/transcribe/faster_whisper_engine.py",
        "services/transcribe/whisper.py",
    },
    "fastavro": {"services/runtime/codec.py"},
    "faster_whisper": {
        "services/transcribe/faster_whisper_engine.py",
        "services/transcribe/whisper.py",
    },
    # One fetches models; the doctor looks for what is there.
    "huggingface_hub": {
        "services/cli/speech.py",
        "services/transcribe/faster_whisper_engine.py",
    },
    # A client of its own has each who speaks HTTP: recordings, language models, schemas, the demo's
    # platform. The endpoints take its certificate authorities, and who loads models of a hub asks
    # whether it answers.
    "httpx": {
        "services/enrich/llm.py",
        "services/ingest/fetch.py",
        "services/loopback.py",
        "services/notify/endpoints.py",
        "services/runtime/libraries.py",
        "services/runtime/registry.py",
        "services/transcribe/openai_engine.py",
    },
    "funasr": {"services/transcribe/sensevoice_engine.py"},
    "matplotlib": {"services/evaluation/report.py"},
    "minio": {"services/runtime/objects.py"},
    "onnxruntime": {"services/transcribe/vad.py"},
    "opencc": {"services/transcribe/script.py"},
    "pocketsphinx": {"services/transcribe/pocketsphinx_engine.py"},
    "prometheus_client": {"services/runtime/observe.py"},
    "rapidfuzz": {"services/evaluation/measures.py"},
    "rjieba": {"services/enrich/keywords.py"},
    "soundfile": {"services/evaluation/telephony.py"},
    "sqlite3": {"services/runtime/sqlite_log.py"},
    "stopwordsiso": {"services/enrich/keywords.py"},
    "structlog": {"services/runtime/observe.py"},
    "transformers": {"services/enrich/transformer.py"},
    "typer": {
        "services/cli/__main__.py",
        "services/cli/eval.py",
        "services/cli/letters.py",
        "services/cli/notifications.py",
        "services/cli/replay.py",
        "services/cli/replay_run.py",
        "services/cli/review.py",
        "services/cli/rules.py",
        "services/cli/schemas.py",
        "services/cli/submit.py",
        "services/cli/topics.py",
    },
    "whisperx": {"services/transcribe/whisperx_engine.py"},
}
# Not among the core dependencies; only the file that needs one imports it.
EXTRAS = {"funasr", "matplotlib", "pyannote", "soundfile", "torch", "transformers", "whisperx"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), name_of(path))


def imports(path: Path) -> Iterator[str]:
    """Full names of the modules that `path` imports, wherever in it."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)} imports relatively"
            module = node.module or ""
            yield from (f"{module}.{alias.name}" for alias in node.names)


def below(name: str, packages: Set[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def test_there_is_source_to_read() -> None:
    assert {"schemas/topics.py", "services/runtime/loop.py"} <= {name_of(path) for path in SOURCES}


@pytest.mark.parametrize("library", sorted(HOME_OF))
def test_a_heavy_library_is_imported_in_one_place(library: str) -> None:
    users = {name_of(path) for path in SOURCES for name in imports(path) if below(name, {library})}
    assert users <= HOME_OF[library]


def test_the_contract_imports_nothing_of_ours_but_itself() -> None:
    for path in SOURCES:
        if name_of(path).startswith("schemas/"):
            assert not [name for name in imports(path) if below(name, {"services"})], path


def test_the_runtime_imports_no_service() -> None:
    for path in SOURCES:
        if name_of(path).startswith("services/runtime/"):
            for name in imports(path):
                allowed = below(name, {"services.runtime", "schemas"})
                assert allowed or not below(name, {"services"}), f"{name_of(path)}: {name}"


def test_the_product_knows_nothing_of_the_tools_around_it() -> None:
    for path in SOURCES:
        for name in imports(path):
            assert not below(name, {"stack", "tests", "benchmarks"}), f"{name_of(path)}: {name}"


def test_nothing_below_the_command_knows_it() -> None:
    for path in SOURCES:
        if not name_of(path).startswith("services/cli/"):
            for name in imports(path):
                assert not below(name, {"services.cli"}), f"{name_of(path)}: {name}"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_knows_the_runtime_and_no_other_stage(stage: str) -> None:
    """Its `__main__` may also start it, which takes the assembly."""
    for path in sorted((ROOT / "services" / stage).rglob("*.py")):
        for name in imports(path):
            if below(name, {"services"}) and path.name != "__main__.py":
                assert below(name, {"services.runtime", f"services.{stage}"}), (
                    f"{name_of(path)} imports {name}"
                )


def test_imports_do_not_go_in_circles() -> None:
    modules = {name_of(path).removesuffix(".py").replace("/", "."): path for path in SOURCES}
    needs: dict[str, set[str]] = defaultdict(set)
    for module, path in modules.items():
        for node in tree_of(path).body:  # what a function imports, it imports when called
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [str(node.module), *(f"{node.module}.{a.name}" for a in node.names)]
            else:
                continue
            needs[module] |= {name for name in names if name in modules}
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " -> ".join((*above, module))
        if module not in done:
            for needed in sorted(needs[module]):
                visit(needed, (*above, module))
            done.add(module)

    for module in modules:
        visit(module, ())


def test_what_a_module_keeps_to_itself_no_other_imports() -> None:
    for path in SOURCES:
        for name in imports(path):
            private = [part for part in name.split(".") if part.startswith("_")]
            ours = below(name, {"services", "schemas"})
            assert not (ours and private), f"{name_of(path)}: {name}"


def test_a_package_forwards_no_names() -> None:
    for path in SOURCES:
        if path.name == "__init__.py":
            assert all(isinstance(node, ast.Expr) for node in tree_of(path).body), name_of(path)


def test_names_say_what_is_inside() -> None:
    empty = {"utils", "util", "helpers", "helper", "common", "base", "manager", "misc", "core"}
    for path in SOURCES:
        assert not empty & {path.stem, *path.relative_to(ROOT).parent.parts}, name_of(path)


_QUIET = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.FunctionDef, ast.ClassDef)


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_importing_does_nothing(path: Path) -> None:
    """A module defines; what it does it does when called."""
    for node in tree_of(path).body:
        if isinstance(node, ast.If):
            condition = ast.unparse(node.test)
            assert condition in ("TYPE_CHECKING", "__name__ == '__main__'"), condition
        elif isinstance(node, ast.Expr):
            wired = ast.unparse(node).startswith(("app.add_typer(", "app.command()("))
            assert isinstance(node.value, ast.Constant) or wired, ast.unparse(node)
        else:
            assert isinstance(node, _QUIET), ast.unparse(node)
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            for call in ast.walk(node.value):
                if isinstance(call, ast.Call):
                    called = ast.unparse(call.func)
                    assert called not in ("open", "os.getenv", "Thread", "threading.Thread"), called
                    assert not called.endswith((".read_text", ".read_bytes", ".connect")), called


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_module_says_what_it_is(path: Path) -> None:
    if path.read_text():
        assert ast.get_docstring(tree_of(path)), f"{name_of(path)} has no docstring"


@pytest.mark.parametrize(
    "path", [path for path in SOURCES if "services/runtime/" in name_of(path)], ids=name_of
)
def test_what_others_build_on_states_its_contract(path: Path) -> None:
    for node in tree_of(path).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            plain = isinstance(node, ast.ClassDef) and not any(
                isinstance(item, ast.FunctionDef) for item in node.body
            )
            assert ast.get_docstring(node) or plain, f"{name_of(path)}: {node.name}"


def test_every_service_has_the_same_files() -> None:
    for stage in STAGES:
        for name in ("__main__.py", "handler.py", "settings.py"):
            assert (ROOT / "services" / stage / name).is_file(), f"{stage}/{name}"


def test_nothing_is_imported_from_a_conftest() -> None:
    for path in sorted((ROOT / "tests").rglob("*.py")):
        assert not [name for name in imports(path) if "conftest" in name.split(".")], path


_PROGRAM = """
import importlib, sys

class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {extras!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Refused())
for module in {modules!r}:
    importlib.import_module(module)
print(sorted({extras!r} & {{name.partition(".")[0] for name in sys.modules}}))
"""


def test_the_core_does_without_its_extras() -> None:
    """Every module but those made for an extra is imported where no extra is installed."""
    modules = []
    for path in SOURCES:
        top = {
            name.partition(".")[0]
            for node in tree_of(path).body
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in ([a.name for a in node.names] if isinstance(node, ast.Import)
                         else [node.module or ""])
        }  # fmt: skip
        if not top & EXTRAS and path.name not in ("__init__.py", "__main__.py"):
            modules.append(name_of(path).removesuffix(".py").replace("/", "."))
    program = _PROGRAM.format(extras=EXTRAS, modules=modules)
    answer = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip() == "[]"
