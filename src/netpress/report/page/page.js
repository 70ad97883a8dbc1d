"use strict";
(() => {
  const content = JSON.parse(document.getElementById("content").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const views = new Map();
  const byId = (id) => document.getElementById(id);

  // Colours that are too dark on a dark ground, and what is drawn for them there.
  const LIT = { "#000000": "#ffffff", "#0072B2": "#56a8e0", "#767676": "#a6a6ae" };

  // Colours of text and ground follow the theme, and legends the width.
  function themed(spec) {
    const ink = dark.matches ? "#ececf0" : "#1c1c1e";
    const line = dark.matches ? "#3c3c44" : "#dcdce0";
    let text = JSON.stringify(spec);
    if (dark.matches) for (const [light, lit] of Object.entries(LIT)) text = text.replaceAll(light, lit);
    if (innerWidth < 640) text = text.replaceAll(/"columns":\d/g, '"columns":1').replaceAll('"labelLimit":600', '"labelLimit":270');
    return {
      ...JSON.parse(text),
      background: null,
      autosize: { type: "fit-x", contains: "padding" },
      config: {
        view: { stroke: null },
        axis: { aria: false, labelColor: ink, titleColor: ink, gridColor: line, domainColor: ink, tickColor: line, labelFontSize: 12, titleFontSize: 12 },
        legend: { aria: false, labelColor: ink, titleColor: ink, labelFontSize: 12 },
        text: { color: ink, fontSize: 12 },
        point: { stroke: ink },
        // The chart is one picture with a description; the tables hold what is in it.
        mark: { aria: false },
      },
    };
  }

  async function draw(element, spec) {
    views.get(element)?.finalize();
    views.set(element, null); // it is being drawn
    const how = { actions: false, ast: true, renderer: "svg", tooltip: { theme: dark.matches ? "dark" : "light" } };
    const { view } = await vegaEmbed(element, themed(spec), how);
    views.set(element, view);
    return view;
  }

  const SCALES = [[1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""]];
  const rounded = (value) => Number(value.toPrecision(3));
  function amount(value, unit) {
    if (unit === "ms") return `${value} ms`;
    const [factor, prefix] = SCALES.find(([factor]) => value >= factor) ?? [1, ""];
    const short = unit === "B";
    return `${rounded(value / factor)} ${prefix}${short ? "" : " "}${unit}`.replace("  ", " ");
  }

  const [select, slider] = [byId("axis"), byId("budget")];
  const axisNow = () => content.axes[select.value];
  const costs = (axis) => Object.values(axis.costs);
  let front = null;
  let winner = ""; // the model that is named now

  // The slider runs over the logarithm, from a little below the cheapest network to a little above the dearest.
  function ends(axis) {
    return [Math.min(...costs(axis)) / 1.2, Math.max(...costs(axis)) * 1.02];
  }

  function limitNow() {
    const [low, high] = ends(axisNow());
    return rounded(low * (high / low) ** (slider.value / 1000));
  }

  function setLimit(limit) {
    const [low, high] = ends(axisNow());
    slider.value = Math.ceil((1000 * Math.log(limit / low)) / Math.log(high / low)) + 3;
  }

  function stepNow() {
    const limit = limitNow();
    return axisNow().steps.filter((step) => step.limit <= limit).pop();
  }

  // What fits is told in words; the chart, if it is drawn already, follows.
  async function show() {
    const [axis, limit, step] = [axisNow(), limitNow(), stepNow()];
    winner = step?.model ?? "";
    const [first, ...rest] = step ? step.text.trimEnd().split("\n") : [];
    byId("amount").textContent = `at most ${amount(limit, axis.unit)}`;
    slider.setAttribute("aria-valuetext", `at most ${amount(limit, axis.unit)}`);
    byId("winner").textContent = winner;
    byId("winner").href = step ? `#${winner.split("/").slice(0, 2).join("/")}` : "#models";
    const cheapest = `No network fits; the cheapest has ${amount(rounded(Math.min(...costs(axis))), axis.unit)}.`;
    byId("choice").textContent = step ? [first.slice(winner.length), ...rest].join("\n") : cheapest;
    if (!front) return;
    front.signal("budget", limit).signal("winner", winner);
    await front.runAsync();
  }

  async function drawFront() {
    front = null;
    await show();
    front = await draw(byId("chart"), axisNow().front);
    await show();
  }

  // The budget stays that of the model that was named.
  async function changeAxis() {
    const cost = axisNow().costs[winner];
    slider.value = 1000;
    if (cost) setLimit(cost);
    await drawFront();
  }

  const entries = [...document.querySelectorAll("#models details")];
  const openAll = (open) => entries.forEach((entry) => { entry.open = open; });
  function openTarget() {
    const target = byId(location.hash.slice(1));
    if (!(target instanceof HTMLDetailsElement)) return;
    target.open = true;
    target.scrollIntoView();
  }

  function shade() {
    for (const row of document.querySelectorAll(".classes tbody tr")) {
      const cells = [...row.cells].slice(2);
      const all = cells.reduce((sum, cell) => sum + Number(cell.textContent), 0);
      for (const cell of cells) {
        const share = Number(cell.textContent) / (all || 1);
        const hit = cell.classList.contains("hit");
        if (!hit && share) cell.classList.add("heat");
        cell.style.setProperty("--share", hit ? share * 0.5 : Math.min(share * 2.5, 0.7));
      }
    }
  }

  // The large charts first; those of the models once the page is at rest, so that they are there when it is printed.
  const rest = () => new Promise((done) => (window.requestIdleCallback ?? setTimeout)(done));
  async function drawAll() {
    if (select) await drawFront();
    if (content.pruning) await draw(byId("curves"), content.pruning);
    document.documentElement.dataset.ready = "yes";
    for (const element of document.querySelectorAll("[data-training]")) {
      await rest();
      await draw(element, content.training[element.dataset.training]);
    }
    document.documentElement.dataset.ready = "all";
  }

  if (select) {
    select.addEventListener("change", changeAxis);
    slider.addEventListener("input", show);
  }
  byId("open").addEventListener("click", (event) => {
    const open = entries.some((entry) => !entry.open);
    openAll(open);
    event.target.textContent = open ? "Close all" : "Open all";
  });
  addEventListener("hashchange", openTarget);
  document.addEventListener("click", (event) => event.target.closest?.('a[href^="#"]') && setTimeout(openTarget));
  addEventListener("beforeprint", () => openAll(true));
  dark.addEventListener("change", drawAll);
  shade();
  openTarget();
  drawAll();
})();
