"""List the Python names of TensorRT's bindings, without TensorRT's libraries or a GPU.

The bindings are on the public index, the libraries that they link are not. This loads the bindings beside empty
libraries of the same names, and lists the classes that dlcv uses. Linux, with cc and binutils:

    pip download --no-deps --dest bindings 'tensorrt_cu13_bindings==11.4.*'
    python -m zipfile -e bindings/*.whl bindings
    python tests/runtime/engines/list_tensorrt_names.py bindings/tensorrt_bindings/tensorrt.so \
        > tests/runtime/engines/tensorrt-11.4-names.txt
"""

import ctypes
import importlib.util
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

CLASSES = (
    "Builder",
    "BuilderFlag",
    "DataType",
    "EngineInspector",
    "ExecutionContextAllocationStrategy",
    "HardwareCompatibilityLevel",
    "IBuilderConfig",
    "ICudaEngine",
    "IExecutionContext",
    "IHostMemory",
    "ILayer",
    "ILogger",
    "INetworkDefinition",
    "IOptimizationProfile",
    "IProgressMonitor",
    "ITensor",
    "ITimingCache",
    "LayerInformationFormat",
    "LayerType",
    "MemoryPoolType",
    "NetworkDefinitionCreationFlag",
    "OnnxParser",
    "ParserError",
    "ProfilingVerbosity",
    "Runtime",
    "TensorIOMode",
)


def undefined(library: Path) -> list[str]:
    """Return the symbols that no system library has."""
    listed = subprocess.run(
        ["nm", "-D", "--undefined-only", library], capture_output=True, text=True, check=True
    )
    return re.findall(r" U (\w*(?:Infer|Nv|PluginRegistry)\w*)$", listed.stdout, re.MULTILINE)


def needed(library: Path) -> list[str]:
    """Return the libraries of TensorRT that it links."""
    listed = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True)
    return re.findall(r"\[(libnv\S+)\]", listed.stdout)


def load(library: Path) -> Any:
    """Import the bindings beside empty libraries."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "empty.c")
        source.write_text(
            "".join(f"void *{name}(void) {{ return 0; }}\n" for name in undefined(library))
        )
        for name in needed(library):
            stub = Path(folder, name)
            flags = ["-shared", "-fPIC", f"-Wl,-soname,{name}"]
            subprocess.run(["cc", *flags, str(source), "-o", str(stub)], check=True)
            ctypes.CDLL(str(stub), ctypes.RTLD_GLOBAL)
    spec = importlib.util.spec_from_file_location("tensorrt_bindings.tensorrt", library)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    """Print a name a line: Class, Class.attribute."""
    module = load(Path(sys.argv[1]).resolve())
    for name in sorted(CLASSES):
        print(name)
        for attribute in sorted(dir(getattr(module, name))):
            if not attribute.startswith("_"):
                print(f"{name}.{attribute}")


if __name__ == "__main__":
    main()
