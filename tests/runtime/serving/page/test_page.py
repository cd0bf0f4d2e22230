"""The page in a real Chromium, over a real server of bundles: what a person sees, and what the browser asks for."""

import base64
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from PIL import ExifTags, Image
from playwright.sync_api import Browser, Locator, Page, Route, expect, sync_playwright

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium: apt-get install chromium, or Chrome"
)
SAMPLES = Path(__file__).resolve().parents[4] / "runtime" / "samples"
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
]  # fmt: skip  # the last two: a camera that shows a moving figure
PASTE = """async ([name, data]) => {
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    const clipboardData = new DataTransfer();
    clipboardData.items.add(new File([bytes], name, { type: "image/jpeg" }));
    document.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true }));
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, server_url: str) -> Iterator[Page]:
    """The page. At the end nothing came from elsewhere, and the console holds no error but an answer's status."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, permissions=["camera"])
    page = context.new_page()
    page.set_default_timeout(10_000)
    errors: list[str] = []
    requests: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
    page.on("request", lambda request: requests.append(request.url))
    page.goto(server_url)
    yield page
    context.close()
    assert [e for e in errors if "the server responded with a status of" not in e] == []
    origins = {urlsplit(url)[:2] for url in requests if not url.startswith(("blob:", "data:"))}
    assert origins == {urlsplit(server_url)[:2]}


def choose(page: Page, *, model: str, photo: str | Path) -> None:
    """Choose a bundle and a photo, and wait for the answer."""
    page.get_by_label("Bundle").select_option(model)
    page.get_by_label("Choose photo").set_input_files(SAMPLES / photo)
    expect(page.locator("#timing")).to_have_text(re.compile(r"\d+ \W \d+ \W \d+ ms"))
    expect(page.locator("body")).not_to_have_class(re.compile("waiting"))


def pixels(canvas: Locator) -> str:
    """Return what is painted on a canvas, as the URL of a PNG."""
    painted: str = canvas.evaluate("(canvas) => canvas.toDataURL()")
    return painted


def color_at(canvas: Locator, x: float, y: float) -> list[int]:
    """Return the colour RGBA at a place in 0..1."""
    found: list[int] = canvas.evaluate(
        "(c, [x, y]) => [...c.getContext('2d').getImageData(x * c.width, y * c.height, 1, 1).data]",
        [x, y],
    )
    return found


def test_a_photo_gives_classes_with_bars(page: Page) -> None:
    choose(page, model="imagenet-lite0", photo="coffee.jpg")
    expect(page.get_by_role("heading", level=2)).to_have_text("espresso")
    rows = page.get_by_role("listitem")
    expect(rows).to_have_count(5)
    expect(rows.first).to_contain_text("espresso")
    share = float((rows.first.text_content() or "").replace("espresso", "").rstrip(" %"))
    bar = rows.first.locator("i b").evaluate("(b) => b.clientWidth / b.parentElement.clientWidth")
    assert 90 < share <= 100
    assert bar == pytest.approx(share / 100, abs=0.01)
    expect(page.get_by_role("status").first).to_contain_text("espresso")


def test_a_street_gives_a_mask_and_a_legend_that_picks_out_a_class(page: Page) -> None:
    choose(page, model="camvid-lraspp", photo="street_taxis.jpg")
    road = page.get_by_role("button", name="road")
    expect(road).to_be_visible()
    expect(road.locator(".swatch")).to_have_css("background-color", "rgb(128, 64, 128)")
    overlay = page.locator("#overlay")
    assert color_at(overlay, 0.6, 0.9) == [128, 64, 128, 255]
    page.get_by_role("button", name="car", exact=False).first.focus()
    assert color_at(overlay, 0.6, 0.9) != [128, 64, 128, 255]
    page.mouse.move(5, 5)  # a pointer that comes from nowhere has not moved
    road.hover()
    assert color_at(overlay, 0.6, 0.9) == [128, 64, 128, 255]
    page.get_by_role("button", name="building").hover()
    assert color_at(overlay, 0.6, 0.9) != [128, 64, 128, 255]
    road.click()
    expect(road).to_have_attribute("aria-pressed", "true")
    assert color_at(overlay, 0.6, 0.9) == [128, 64, 128, 255]


def test_the_mask_lies_over_a_photo_that_its_exif_turns(page: Page, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned clockwise
    with Image.open(SAMPLES / "street_taxis.jpg") as photo:
        photo.save(tmp_path / "turned.jpg", exif=exif)
    choose(page, model="camvid-lraspp", photo=tmp_path / "turned.jpg")
    expect(page.locator("#timing")).to_contain_text("478 × 928")  # noqa: RUF001  # as the page says it
    overlay = page.locator("#overlay").evaluate("(c) => c.width / c.height")
    shown = page.locator("#photo").evaluate("(i) => i.naturalWidth / i.naturalHeight")
    assert overlay == pytest.approx(shown, rel=0.002)
    assert shown == pytest.approx(478 / 928, rel=0.002)


def test_the_head_slider_changes_the_picture(page: Page) -> None:
    choose(page, model="cifar10-vit", photo="dog.jpg")
    overlay, head = page.locator("#overlay"), page.get_by_label("Head")
    rollout = pixels(overlay)
    expect(head).to_be_disabled()
    page.get_by_role("radio", name="Attention").check()
    expect(page.locator("#head-name")).to_have_text("mean of 4")
    mean = pixels(overlay)
    head.press("ArrowRight")
    expect(page.locator("#head-name")).to_have_text("1 of 4")
    first = pixels(overlay)
    page.get_by_role("radio", name="Photo").check()
    assert len({rollout, mean, first, pixels(overlay)}) == 4


def test_a_file_that_is_no_image_gives_one_sentence_and_no_old_answer(page: Page) -> None:
    choose(page, model="imagenet-lite0", photo="coffee.jpg")
    page.get_by_label("Choose photo").set_input_files(
        {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no pixels"}
    )
    alert = page.get_by_role("alert")
    expect(alert).to_be_visible()
    expect(alert).not_to_be_empty()
    assert "\n" not in (alert.text_content() or "")
    expect(page.get_by_text("espresso")).to_have_count(0)
    page.keyboard.press("Escape")
    expect(alert).not_to_be_visible()


def test_a_question_that_a_full_server_refused_can_be_asked_again(page: Page) -> None:
    full = {"error": "64 images are under way; ask again in a second"}
    page.route("**/predict/**", lambda route: route.fulfill(status=503, json=full), times=1)
    expect(page.get_by_label("Bundle")).to_have_value("imagenet-lite0")
    page.get_by_label("Choose photo").set_input_files(SAMPLES / "coffee.jpg")
    expect(page.get_by_role("alert")).to_have_text(full["error"])
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("heading", level=2)).to_have_text("espresso")
    expect(page.get_by_role("alert")).not_to_be_visible()


def test_a_photo_can_be_pasted(page: Page) -> None:
    expect(page.get_by_label("Bundle")).to_have_value("imagenet-lite0")
    data = base64.b64encode((SAMPLES / "coffee.jpg").read_bytes()).decode()
    page.evaluate(PASTE, ["pasted.jpg", data])
    expect(page.get_by_role("heading", level=2)).to_have_text("espresso")
    expect(page.locator("#photo")).to_have_attribute("alt", "The photo pasted.jpg")


def test_the_keyboard_reaches_the_bundle_and_the_photo(page: Page) -> None:
    page.on("filechooser", lambda chooser: chooser.set_files(SAMPLES / "street_taxis.jpg"))
    expect(page.get_by_label("Bundle")).to_have_value("imagenet-lite0")
    page.keyboard.press("Tab")
    expect(page.get_by_label("Bundle")).to_be_focused()
    page.keyboard.type("camvid")
    expect(page.get_by_label("Bundle")).to_have_value("camvid-lraspp")
    page.keyboard.press("Tab")
    expect(page.get_by_label("Choose photo")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="road")).to_be_visible()


def test_names_are_text_also_where_they_look_like_html(page: Page) -> None:
    name = "<img src=x onerror=alert(1)><b>bold</b>"

    def hostile(route: Route) -> None:
        label = {"label": name, "index": 0, "probability": 0.5}
        answer = {"image": name, "height": 4, "width": 4, "engine": "x", **label, "top": [label]}
        route.fulfill(body=json.dumps(answer), content_type="application/json")

    page.route("**/predict/**", hostile)
    choose(page, model="imagenet-lite0", photo="coffee.jpg")
    expect(page.get_by_role("heading", level=2)).to_have_text(name)
    expect(page.get_by_role("listitem")).to_contain_text(name)
    page.locator("summary", has_text="JSON").click()
    expect(page.locator("#json")).to_contain_text("onerror")
    assert page.locator("#answer img, #answer b:not(i b), #json *").count() == 0


def test_each_word_of_a_caption_shows_where_the_captioner_looked(page: Page) -> None:
    maps = [[[0.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [1.0, 0.0]]]
    attention = [{"word": word, "values": v} for word, v in zip(("a", "dog"), maps, strict=True)]
    model = {
        "name": "captioner", "task": "caption", "engine": "x", "size": [8, 8], "classes": [],
        "threshold": None, "outputs": [], "prototypes": [],
    }  # fmt: skip
    answer = {
        "image": "x", "height": 400, "width": 600, "engine": "x", "caption": "a dog", "log_probability": -1.5,
        "words": 2, "attention": attention, "box_xyxy": [100, 0, 500, 400],
    }  # fmt: skip
    page.route("**/models", lambda route: route.fulfill(json={"models": [model]}))
    page.route("**/predict/**", lambda route: route.fulfill(json=answer))
    page.reload()
    choose(page, model="captioner", photo="coffee.jpg")
    expect(page.get_by_role("heading", level=2)).to_have_text("a dog")
    first = pixels(page.locator("#overlay"))
    page.get_by_role("button", name="dog").focus()
    expect(page.get_by_role("button", name="dog")).to_have_attribute("aria-pressed", "true")
    assert pixels(page.locator("#overlay")) != first


def test_few_photos_make_classes_that_can_be_chosen_and_deleted(page: Page) -> None:
    choose(page, model="imagenet-lite0", photo="dog.jpg")
    page.locator("summary", has_text="New classes").click()
    page.get_by_label("Name of the set").fill("animals")
    for number, name in enumerate(("cat", "dog"), start=1):
        page.get_by_label(f"Class {number}", exact=True).fill(name)
        page.get_by_label(f"Photos of class {number}").set_input_files(SAMPLES / f"{name}.jpg")
    page.get_by_role("button", name="Make set").click()
    expect(page.locator("#teach-said")).to_have_text("Made animals: cat (1), dog (1).")
    expect(page.get_by_label("Classes", exact=True)).to_have_value("animals")
    expect(page.get_by_role("heading", level=2)).to_have_text("dog")
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete set").click()
    expect(page.get_by_label("Classes", exact=True)).to_be_hidden()
    expect(page.get_by_text("The likeliest of 1000 classes")).to_be_visible()


def test_a_server_with_keys_is_asked_with_the_key_that_was_typed(page: Page) -> None:
    def guarded(route: Route) -> None:
        if route.request.headers.get("authorization") == "Bearer secret":
            route.continue_()
        else:
            route.fulfill(status=401, json={"error": "this server asks for a key"})

    page.route("**/models", guarded)
    page.reload()
    expect(page.get_by_role("alert")).to_have_text("this server asks for a key")
    page.get_by_label("This server asks for a key").fill("secret")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Bundle")).to_have_value("imagenet-lite0")
    expect(page.locator("#key-form")).to_be_hidden()
    choose(page, model="imagenet-lite0", photo="coffee.jpg")
    expect(page.locator("#curl")).to_contain_text('-H "Authorization: Bearer $KEY"')
    expect(page.locator("#curl")).not_to_contain_text("secret")


def test_the_camera_is_asked_frame_by_frame_until_it_is_stopped(page: Page) -> None:
    expect(page.get_by_label("Bundle")).to_have_value("imagenet-lite0")
    with page.expect_response("**/predict/**"):
        page.get_by_role("button", name="Start camera").click()
    with page.expect_response("**/predict/**"):
        pass
    expect(page.get_by_role("listitem")).to_have_count(5)
    page.get_by_role("button", name="Stop camera").click()
    expect(page.locator("#video")).to_be_hidden()
    expect(page.get_by_text("Choose, drop or paste a photo")).to_be_visible()


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_wider_than_the_screen(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 740})
    choose(page, model="cifar10-vit", photo="dog.jpg")
    for summary in page.locator("details:not([hidden]) summary").all():
        summary.click()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
