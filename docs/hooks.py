"""A hook of MkDocs: makes the page first_hour.md from the notebook, with the outputs that are stored in it."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

NOTEBOOK = "examples/first_hour.ipynb"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the page and its pictures."""
    root = Path(config.config_file_path).parent
    page: list[str] = []
    for number, cell in enumerate(json.loads((root / NOTEBOOK).read_text(encoding="utf-8"))["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            page.append(source)
            continue
        page.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            text = "".join(output.get("text", data.get("text/plain", "")))
            if "image/png" in data:
                name = f"first_hour_{number}.png"
                files.append(File.generated(config, name, content=base64.b64decode(data["image/png"])))
                page.append(f"![Output of the cell above]({name})")
            elif text.strip():
                page.append(f"```text\n{text.rstrip()}\n```")
    page.append(f"This page is the notebook `{NOTEBOOK}`.")
    files.append(File.generated(config, "first_hour.md", content="\n\n".join(page)))
    return files
