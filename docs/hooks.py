"""MkDocs hook: adds the documents of the repository's root to the site, README as its first page."""

from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
PRESETS = "dekr_tf/presets"
DOCUMENTS = (
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "NOTICE"),
    *(f"{PRESETS}/people_mobilenet.md", f"{PRESETS}/LICENSE-APACHE-2.0"),
)


def on_files(files, config):
    """Adds the documents; in the site, they are beside the pages of docs/."""
    for name in DOCUMENTS:
        content = (
            (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](").replace("](../../docs/", "](../../")
        )
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown, page, **_):
    """Points links from docs/ to the documents at the place that these have in the site."""
    return markdown if page.file.src_uri in DOCUMENTS else markdown.replace("](../", "](")
