"""The report as one page: what it shows, that it needs nothing from elsewhere, and how it behaves in a browser."""

import csv
import itertools
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from little import copy_of, run
from report_samples import sample_params, study_in, write_metrics

from netpress.__main__ import main
from netpress.base import files
from netpress.base.model_id import ModelId
from netpress.params import reader
from netpress.report import choice, latency
from netpress.report.choice import Budget
from netpress.report.collect import Study, collect
from netpress.report.latency import Records, Timed, Timing
from netpress.report.page import plots
from netpress.report.page.build import PAGE, page
from netpress.report.page.front import CONTROL
from netpress.report.pareto import Point, front
from netpress.report.write import make_report

ROUND = ModelId("prune/main/round_1")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DATA = {
    "source": "tiny",
    "classes": 2,
    "resolution": 8,
    "channels": 1,
    "train_images": 10,
    "val_images": 2000,
    "manifest_sha256": "0" * 64,
    "class_names": ["<b>bread</b>", "soup & </script>"],
}


def written(root: Path, **changes: object) -> tuple[Study, str]:
    """Write metrics of three seeds below `root`; return the study and its page."""
    params = sample_params(**changes)
    params.quantize["pruned_int8"] = params.quantize["pruned_int8"].model_copy(update={"parent": ROUND})
    write_metrics(root, params, seeds=3, controls=True)
    files.write_json(root / "metrics/data.json", DATA)
    study = study_in(root, params)
    return study, page(root, study, make_report(root, study))


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    root = tmp_path_factory.mktemp("sample")
    return root, *written(root)


class Parsed(HTMLParser):
    """Text of the page's body, its addresses, and whether its elements are closed in order."""

    VOID = frozenset({"meta", "link", "input", "br"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.cells: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.addresses += [found[key] for key in ("src", "href", "action", "srcset") if key in found]
        self.ids += [found["id"]] if "id" in found else []
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] in ("td", "th", "code"):
            self.cells.append(data)


def entry_in(html: str, model_id: str) -> str:
    return html[html.index(f'<details id="{model_id}">') :].split("</details>")[0]


def content_of(html: str) -> dict:
    found = re.search(r'<script id="content" type="application/json">(.*?)</script>', html, re.S)
    assert found
    return json.loads(found[1])


def test_the_page_is_whole_and_takes_nothing_from_elsewhere(sample):
    _, _, html = sample
    parsed = Parsed(html)
    assert all(address.startswith(("#", "data:")) for address in parsed.addresses)
    assert {a[1:] for a in parsed.addresses if a.startswith("#")} <= {*parsed.ids}
    assert len(parsed.ids) == len({*parsed.ids})
    assert "default-src 'none'" in html and len(html.encode()) < 5e6


def test_every_figure_of_the_tables_is_on_it_once_more_and_no_other_table(sample):
    root, study, html = sample
    text = make_report(root, study).texts[Path("metrics/summary.md")]
    cells = {
        c.strip().replace("\\*", "*") for line in text.splitlines() if line.startswith("|") for c in line.split("|")
    }
    wanted = {cell for cell in cells if cell and not re.fullmatch(r"[-:]+|.*\*.*", cell)}
    assert len(wanted) > 100 and wanted <= {cell.strip() for cell in Parsed(html).cells}


def test_every_model_has_an_entry_with_its_figures_and_the_command_that_makes_it_again(sample):
    _, study, html = sample
    for model in study.models:
        if model.id.round is None:
            entry = entry_in(html, model.id)
            assert f"{100 * model.measured.val_acc:.2f}" in entry and f"{model.measured.params:,}" in entry
            assert f"dvc repro --single-item --force {model.id.stage}</code>" in entry
            for parent in model.parents.values():
                accuracy = 100 * study.measured(parent).val_acc
                assert re.search(rf'<a href="#{parent.base}">{parent}</a>: [^<]*, {accuracy:.2f} ±', entry)
            assert "dvc pull" in entry


def test_names_are_text_and_never_markup(sample):
    _, _, html = sample
    assert "<b>bread</b>" not in html and "&lt;b&gt;bread&lt;/b&gt;" in html
    assert html.count("<script") == html.count("</script>") == 3


def test_markdown_of_the_tables_cannot_bring_markup(tmp_path):
    claims = sample_params().claims
    hostile = {"int8": claims["int8"].model_copy(update={"text": "<img src=x onerror=alert(1)> costs little"})}
    _, html = written(tmp_path, claims=hostile)
    assert "<img src=x" not in html and html.count("&lt;img src=x") >= 2


def test_the_same_metrics_give_the_same_page(sample):
    root, study, html = sample
    assert page(root, study, make_report(root, study)) == html


def test_the_chart_shows_every_network_and_where_it_stands(sample):
    _, study, html = sample
    axis = content_of(html)["axes"]["params"]
    values = {
        row["model"]: row for layer in axis["front"]["layer"] for row in layer["data"]["values"] if "model" in row
    }
    assert {*values} >= {model.id for model in study.models}
    for model in study.models:
        assert values[model.id]["cost"] == model.measured.params
        assert values[model.id]["accuracy"] == pytest.approx(100 * model.measured.val_acc, abs=1e-3)
    line = [(row["cost"], row["accuracy"]) for row in axis["front"]["layer"][0]["data"]["values"]]
    assert line == sorted(line) and [y for _, y in line] == sorted(y for _, y in line)
    known = [row for row in values.values() if row["family"] != CONTROL]
    assert all(any(x <= row["cost"] and y >= row["accuracy"] - 1e-3 for x, y in line) for row in known)
    assert len(known) < len(values), "shapes trained from scratch are shown too"


def test_the_slider_names_what_choose_names(sample):
    _, study, html = sample
    axis = content_of(html)["axes"]["onnx_bytes"]
    curves = [curve.model_id for curve in make_report(Path("nowhere"), study).curves]
    for limit in axis["costs"].values():
        step = [step for step in axis["steps"] if step["limit"] <= limit][-1]
        found = choice.choose(study, curves, Budget({"onnx_bytes": limit}), smallest=False)
        assert step["model"] == found.id and step["text"] == choice.text(study, found)


def test_each_step_begins_where_the_choice_changes(sample):
    _, study, _ = sample
    costs = {model.id: float(model.measured.macs) for model in study.models}
    steps = choice.steps(study, [], costs, lambda limit: Budget({"macs": limit}))
    assert steps[0].limit == min(costs.values())
    assert all(a.limit < b.limit and a.choice != b.choice for a, b in itertools.pairwise(steps))


def test_latency_is_an_axis_and_a_table_where_it_was_measured(tmp_path):
    study, html = written(tmp_path)
    assert "ms" not in content_of(html)["axes"] and 'id="latency"' not in html
    timing = Timing(batch=1, threads=1, p50_ms=0.125, p90_ms=0.5)
    now = {m.id: m.measured.weights_sha256 for m in study.models[:2]}
    models = {name: Timed(sha256=sha, onnx_bytes=9, timings=[timing]) for name, sha in now.items()}
    models["train/plain_cnn"] = models[study.models[0].id].model_copy(update={"sha256": "of earlier weights"})
    records = Records(cpu="a processor", cores=2, runtimes={"onnxruntime": "1"}, load=0.0, rounds=1, models=models)
    latency.write(tmp_path, records)
    html = page(tmp_path, study, make_report(tmp_path, study))
    assert content_of(html)["axes"]["ms"]["costs"] == dict.fromkeys(now, 0.125)
    shown = html[html.index('<section id="latency">') :].split("</section>")[0]
    assert "0.125 / 0.500" in shown and "a processor" in shown and "train/plain_cnn" not in shown


def test_latencies_that_are_damaged_are_left_out_with_a_note(tmp_path, capsys):
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports/latency.json").write_text('{"cpu": 1}')
    _, html = written(tmp_path)
    assert "ms" not in content_of(html)["axes"]
    assert "note: the page shows no latencies: reports/latency.json is damaged" in capsys.readouterr().err


def test_a_round_that_is_tested_stands_in_the_entry_of_its_curve(tmp_path):
    _, html = written(tmp_path, final=[ROUND])
    assert "Test accuracy of round 1" in entry_in(html, "prune/main")
    Parsed(html)


def test_a_study_without_models_has_a_page_that_says_what_to_do(tmp_path):
    study = Study(())
    html = page(tmp_path, study, make_report(tmp_path, study))
    Parsed(html)
    assert "make repro" in html and 'id="axis"' not in html


def test_the_front_may_be_of_any_cost():
    points = [Point(name, "trained alone", 9, acc) for name, acc in zip("abcd", (0.5, 0.4, 0.6, 0.7), strict=True)]
    assert [p.id for p in front(points, {"a": 1.0, "b": 2.0, "c": 3.0, "d": 3.0})] == ["a", "d"]
    assert [p.id for p in front(points)] == ["d"]


@pytest.fixture(scope="module")
def made(little_run, tmp_path_factory):
    """A project with its models, where the report was written."""
    project = copy_of(little_run, tmp_path_factory.mktemp("page") / "project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        assert main(["latency", "--rounds", "1"]) == 0
        assert main(["report"]) == 0
    return project


def test_training_confusions_and_mistakes_are_shown_where_the_models_are(made):
    html = (made / PAGE).read_text(encoding="utf-8")
    names = json.loads((made / "metrics/data.json").read_text())["class_names"]
    entry = entry_in(html, "distill/kd")
    assert 'data-training="distill/kd"' in entry and "distill/kd" in content_of(html)["training"]
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', entry, re.S)
    assert [name for name, _ in rows] == names
    metrics = json.loads((made / "metrics/distill/kd.json").read_text())
    counts = [[int(cell or 0) for cell in re.findall(r"<td[^>]*>(\d*)</td>", cells)] for _, cells in rows]
    with (made / "models/distill/kd/seed_0/predictions.csv").open(encoding="utf-8", newline="") as file:
        pairs = [(row["actual"], row["predicted"]) for row in csv.DictReader(file)]
    assert counts == [[pairs.count((actual, predicted)) for predicted in names] for actual in names]
    assert sum(map(sum, counts)) == metrics["val_images"]
    assert sum(row[k] for k, row in enumerate(counts)) == round(metrics["val_acc"] * metrics["val_images"])
    assert entry.count("<figure>") == min(12, metrics["val_images"] - sum(row[k] for k, row in enumerate(counts)))


def again(folder: Path) -> str:
    """The page of a changed copy of the project."""
    params = reader.load(folder / "params.yaml")
    study = collect(folder, params.items())
    return page(folder, study, make_report(folder, study))


def test_many_classes_give_pairs_in_place_of_a_matrix(made, monkeypatch):
    from netpress.report.page import models

    monkeypatch.setattr(models, "MOST_CLASSES", 2)
    entry = entry_in(again(made), "distill/kd")
    assert "<table" not in entry and " taken for " in entry.split("confused most")[1]


def rewritten(folder: Path, **changes: object) -> None:
    spec = files.read_sealed(folder / "spec.json", "")
    files.write_sealed(folder / "spec.json", spec | changes)


def test_a_model_with_its_own_class_names_is_told_of_by_them(made, tmp_path):
    project = copy_of(made, tmp_path / "project")
    folder = project / "models/distill/kd/seed_0"
    spec = files.read_sealed(folder / "spec.json", "")
    table = (folder / "predictions.csv").read_text(encoding="utf-8")
    own = {name: f"own {number}" for number, name in enumerate(spec["classes"])}
    text = re.sub("|".join(map(re.escape, own)), lambda name: own[name[0]], table)
    (folder / "predictions.csv").write_text(text, encoding="utf-8")
    hashes = spec["sha256"] | {"predictions.csv": files.sha256_bytes(text.encode())}
    rewritten(folder, classes=list(own.values()), sha256=hashes)
    assert re.findall(r'<th scope="row">(.*?)</th>', entry_in(again(project), "distill/kd")) == [*own.values()]


@pytest.mark.parametrize("name", ["predictions.csv", "mistakes.png", "spec.json"])
def test_a_damaged_file_of_a_model_is_named_in_its_entry(made, tmp_path, name):
    project = copy_of(made, tmp_path / "project")
    path = project / "models/distill/kd/seed_0" / name
    path.write_bytes(path.read_bytes()[:-9])
    entry = entry_in(again(project), "distill/kd")
    assert f">models/distill/kd/seed_0/{name} " in entry and "to make distill/kd again" in entry
    assert "<figure>" not in entry and 'class="predicted"' not in entry


def test_a_folder_of_other_weights_is_not_shown_beside_the_metrics(made, tmp_path):
    project = copy_of(made, tmp_path / "project")
    folder = project / "models/distill/kd/seed_0"
    spec = files.read_sealed(folder / "spec.json", "")
    rewritten(folder, sha256=spec["sha256"] | {"model.safetensors": "0" * 64})
    entry = entry_in(again(project), "distill/kd")
    assert "other weights than the metrics tell of: dvc checkout" in entry and "<figure>" not in entry


@pytest.fixture(scope="module")
def browser():
    """A Chromium without a window."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here: apt install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, made):
    """The page of a project with models; fails where it says something on the console or asks for a file."""
    context = browser.new_context(viewport={"width": 1200, "height": 900}, offline=True)
    tab, said, asked = context.new_page(), [], []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto((made / PAGE).as_uri())
    tab.wait_for_selector("html[data-ready]", timeout=20_000)
    yield tab
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == [] and len(asked) < 30
    context.close()


def test_charts_are_drawn(opened):
    for chart in ("#chart", "#curves"):
        assert opened.locator(f"{chart} svg .mark-symbol path").count() > 3
    opened.wait_for_selector("html[data-ready=all]")
    drawn, entries = opened.locator("[data-training] svg").count(), opened.locator("[data-training]").count()
    assert drawn == entries > 2


def test_the_slider_changes_the_winner_and_the_axis_the_chart(opened):
    dearest = opened.locator("#choice").inner_text()
    slider = opened.locator("#budget")
    slider.focus()
    opened.keyboard.press("Home")
    opened.wait_for_function("document.getElementById('choice').textContent.startsWith('No network fits')")
    while (cheap := opened.locator("#choice").inner_text()).startswith("No network fits"):
        opened.keyboard.press("PageUp")
    assert cheap != dearest and "multiply-adds" in cheap
    assert opened.locator("#winner").inner_text() in opened.locator("#chart svg").text_content()
    opened.select_option("#axis", "ms")
    opened.wait_for_function("document.querySelector('#chart svg').textContent.includes('Time of an image')")
    assert opened.locator("#amount").input_value().endswith(" ms")


def test_a_budget_that_is_written_counts_to_the_unit(opened):
    costs = opened.evaluate("JSON.parse(document.getElementById('content').textContent).axes")
    axis = opened.locator("#axis").input_value()
    cheapest = min(costs[axis]["costs"].values())
    field, slider, choice = opened.locator("#amount"), opened.locator("#budget"), opened.locator("#choice")
    field.fill(str(cheapest))
    assert not choice.inner_text().startswith("No network fits")
    assert costs[axis]["costs"][opened.locator("#winner").inner_text()] == cheapest
    at = slider.input_value()
    field.fill(str(cheapest - 1))
    assert choice.inner_text().startswith("No network fits")
    field.fill("much")
    assert field.get_attribute("aria-invalid") == "true" and choice.inner_text().startswith("No network fits")
    field.fill(f"{cheapest / 1000} kB")
    assert field.get_attribute("aria-invalid") == "false" and not choice.inner_text().startswith("No network fits")
    assert slider.input_value() == at


def test_an_address_with_a_model_opens_its_entry_again_and_again(opened):
    opened.evaluate("location.hash = '#quantize/int8'")
    entry = "details[id='quantize/int8']"
    opened.wait_for_selector(f"{entry}[open]")
    opened.locator(f"{entry} summary").click()
    opened.wait_for_selector(f"{entry}:not([open])")
    opened.evaluate(
        "{const a = document.createElement('a'); a.href = '#quantize/int8'; document.body.append(a); a.click();}"
    )
    opened.wait_for_selector(f"{entry}[open]")


def test_an_address_that_makes_no_sense_leaves_the_page_whole(browser, made):
    tab = browser.new_page()
    tab.goto(f"{(made / PAGE).as_uri()}#50%")
    tab.wait_for_selector("html[data-ready=all]", timeout=20_000)
    tab.close()


def test_the_page_fits_a_phone_and_is_printed_whole(browser, made, tmp_path):
    context = browser.new_context(viewport={"width": 360, "height": 740}, color_scheme="dark")
    tab = context.new_page()
    tab.goto((made / PAGE).as_uri())
    tab.wait_for_selector("html[data-ready=all]")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    tab.pdf(path=tmp_path / "page.pdf")
    assert tab.locator("#models details:not([open])").count() == 0
    context.close()


def test_the_plots_of_dvc_are_drawn_without_a_network(browser, made, tmp_path):
    plots.write_template(made)
    settings = run(made, "dvc", "config", "--local", "plots.html_template", "plots/page.html")
    shown = run(made, "dvc", "plots", "show", "-o", str(tmp_path / "shown"))
    assert (settings.returncode, shown.returncode) == (0, 0), shown.stdout
    context = browser.new_context(offline=True)
    tab = context.new_page()
    tab.goto((tmp_path / "shown/index.html").as_uri())
    for title in ("Pruning, round by round", "Accuracy against size"):
        tab.wait_for_selector(f"svg:has-text('{title}'), canvas", timeout=10_000)
    assert tab.locator("canvas, .vega-embed svg.marks").count() == 2
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_serious_stands_in_the_way_of_people_who_read_otherwise(browser, made, scheme):
    from axe_playwright_python.sync_playwright import Axe

    context = browser.new_context(viewport={"width": 1200, "height": 900}, color_scheme=scheme)
    tab = context.new_page()
    tab.goto((made / PAGE).as_uri())
    tab.wait_for_selector("html[data-ready]")
    tab.locator("#open").click()
    found = Axe().run(tab).response["violations"]
    context.close()
    assert [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")] == []
