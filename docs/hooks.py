"""Hooks of MkDocs: the notebook's page, links to files outside docs/, and a check of the API reference."""

from __future__ import annotations

import ast
import base64
import json
import logging
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

NOTEBOOK = "examples/first_hour.ipynb"
LOG = logging.getLogger("mkdocs.hooks.api")  # a strict build fails on a warning


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Makes first_hour.md from the notebook, with the outputs that are stored in it."""
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


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Copies pictures from outside docs/ to the site, and shows other files there by their names.

    So the links also work where the repository is browsed. A link to a file that does not exist is left alone, and the
    strict build reports it.
    """
    docs, root = Path(config.docs_dir), Path(config.config_file_path).parent
    # The pages that are files of the repository's root, whose links to docs/ are links within the site.
    whole = re.search(r'^--8<-- "(\w+\.md)"$', markdown.strip())
    if whole:
        markdown = (root / whole[1]).read_text(encoding="utf-8").replace("](docs/", "](")

    def replace(found: re.Match[str]) -> str:
        target = (docs / page.file.src_uri).parent.joinpath(found["link"]).resolve()
        if not target.exists() or target.is_relative_to(docs):
            return found[0]
        name = target.relative_to(root).as_posix()
        if not found["picture"]:
            return f"`{name}`" if found["text"].strip("`") == name else f"{found['text']} (`{name}`)"
        uri = f"repository/{name}"
        if files.get_file_from_path(uri) is None:
            files.append(File.generated(config, uri, abs_src_path=str(target)))
        return f"![{found['text']}]({'../' * page.file.src_uri.count('/')}{uri})"

    return re.sub(r"(?P<picture>!?)\[(?P<text>[^\]]*)\]\((?P<link>\.\./[^)\s]+)\)", replace, markdown)


def on_post_build(config: MkDocsConfig) -> None:
    """Warns where a public name of a package is missing on the package's page of the API reference."""
    package = Path(config.config_file_path).parent / "dsa_fast"
    for page in sorted((Path(config.docs_dir) / "api").glob("*.md")):
        name = "" if page.stem == "index" else page.stem
        shown = set(
            re.findall(r'id="dsa_fast\.[\w.]*?(\w+)"', Path(config.site_dir, "api", name, "index.html").read_text())
        )
        # A page shows its package, and those subpackages that it names.
        named = re.findall(r"^::: dsa_fast\.?(\S*)$", page.read_text(), re.M)
        files = [package.joinpath(*each.split("."), "__init__.py") for each in named]
        nodes = [node for file in files if file.is_file() for node in ast.parse(file.read_text()).body]
        for node in nodes:
            if isinstance(node, ast.Assign) and [ast.unparse(each) for each in node.targets] == ["__all__"]:
                missing = set(ast.literal_eval(node.value)) - shown - {"__version__"}
                if not name:
                    missing -= {"warp", "warp_densepose"}  # on the page of dsa_fast.ops
                if missing:
                    LOG.warning("%s does not show %s", page.name, ", ".join(sorted(missing)))
