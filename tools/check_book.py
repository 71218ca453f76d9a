"""Open every page of the site in a headless browser, wide and narrow: `make check-book`.

A page fails for an error on the console, a request that leaves the machine, a picture without its
pixels or its description, an empty formula, a dead link within the site, text that runs out of the
window, or a slider that moves nothing. Screenshots lie in build/book/shots.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlparse

from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
OUT, SHOTS = ROOT / "build" / "book" / "html", ROOT / "build" / "book" / "shots"
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
LOOK = """() => ({
    pictures: [...document.images].map(i => [i.src.slice(0, 80), i.alt, i.naturalWidth]),
    formulas: [...document.querySelectorAll('math')].map(m => m.textContent.trim().length),
    links: [...document.links].map(a => a.href),
    ids: [...document.querySelectorAll('[id]')].map(e => e.id),
    wide: Math.max(0, ...[...document.querySelectorAll('article, main')].map(
        e => e.scrollWidth - e.clientWidth)),
    frames: [...document.querySelectorAll('iframe')].map(f => f.title),
})"""


def main() -> int:
    """Check all pages; how many things are wrong decides the exit status."""
    if not (OUT / "index.html").exists():
        sys.exit("check-book: there is no site yet; run `make book` first.")
    program = os.environ.get("CHROMIUM") or next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    shutil.rmtree(SHOTS, ignore_errors=True)
    SHOTS.mkdir(parents=True)
    wrong, pages = [], sorted(p for p in OUT.rglob("*.html") if "_static" not in p.parts)
    with sync_playwright() as play:
        try:
            browser = play.chromium.launch(executable_path=program, args=["--no-sandbox"])
        except Exception as error:
            first = str(error).splitlines()[0]
            sys.exit(f"check-book: no Chromium can be started ({first}); install one, or name it "
                     f"in CHROMIUM.")  # fmt: skip
        ids: dict[Path, set[str]] = {}
        found = {}
        for path in pages:
            for name, size in SIZES.items():
                seen, said = visit(browser, path, name, size)
                found[path], ids[path] = seen, set(seen["ids"])
                wrong += [f"{path.relative_to(OUT)} ({name}): {line}" for line in said]
        for path, seen in found.items():
            wrong += [f"{path.relative_to(OUT)}: {line}" for line in dead(path, seen["links"], ids)]
        for path in sorted((OUT / "_static" / "figures").glob("*.html")):
            wrong += [f"{path.relative_to(OUT)}: {line}" for line in still(browser, path)]
        browser.close()
    print(*wrong, sep="\n")
    print(f"{len(pages)} pages at {len(SIZES)} sizes: {len(wrong)} things are wrong.")
    return int(bool(wrong))


def opened(browser: Browser, size: tuple[int, int]) -> tuple[Page, list[str]]:
    """A page in which nothing may leave the machine, and what it complains of."""
    said: list[str] = []
    page = browser.new_page(viewport={"width": size[0], "height": size[1]})

    def route(asked: object) -> None:
        if urlparse(asked.request.url).scheme in ("file", "data", "blob"):
            asked.continue_()
        else:
            said.append(f"asks for {asked.request.url}")
            asked.abort()

    page.route("**/*", route)
    page.on("console", lambda m: said.append(f"console: {m.text}") if m.type == "error" else None)
    page.on("pageerror", lambda error: said.append(f"error: {error}"))
    return page, said


def visit(browser: Browser, path: Path, name: str, size: tuple[int, int]) -> tuple[dict, list[str]]:
    """What a page holds, and what is wrong with it."""
    page, said = opened(browser, size)
    page.goto(path.as_uri(), wait_until="load")
    page.wait_for_timeout(300)
    seen = page.evaluate(LOOK)
    for source, alt, width in seen["pictures"]:
        if not width:
            said.append(f"picture not drawn: {source}")
        if not alt.strip() or alt.endswith((".png", ".svg")):
            said.append(f"picture without description: {source}")
    said += ["an empty formula" for length in seen["formulas"] if not length]
    said += ["a frame without title" for title in seen["frames"] if not title]
    if seen["wide"] > 1:
        said.append(f"runs {seen['wide']} pixels out of the window")
    shot = path.relative_to(OUT).with_suffix("").as_posix().replace("/", "-")
    page.screenshot(path=SHOTS / f"{shot}-{name}.png")
    page.close()
    return seen, said


def dead(path: Path, links: list[str], ids: dict[Path, set[str]]) -> Iterator[str]:
    """Links within the site that lead nowhere."""
    for link in dict.fromkeys(links):
        parts = urlparse(link)
        if parts.scheme != "file":
            continue
        target = Path(unquote(parts.path))
        if not target.exists():
            yield f"dead link: {link}"
        elif parts.fragment and target in ids and unquote(parts.fragment) not in ids[target]:
            yield f"link to a place that is not there: {link}"


def still(browser: Browser, path: Path) -> Iterator[str]:
    """Sliders of a figure that change nothing."""
    page, said = opened(browser, (800, 600))
    page.goto(path.as_uri(), wait_until="load")
    page.wait_for_timeout(800)
    sliders = page.locator(".noUi-handle")
    if not sliders.count():
        said.append("no slider")
    for number in range(sliders.count()):
        before = page.screenshot()
        sliders.nth(number).focus()
        for _ in range(4):
            page.keyboard.press("ArrowRight")
        page.wait_for_timeout(300)
        if page.screenshot() == before:
            said.append(f"slider {number} moves nothing")
    page.screenshot(path=SHOTS / f"figure-{path.stem}.png")
    page.close()
    yield from said


if __name__ == "__main__":
    sys.exit(main())
