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
    if (innerWidth < 640) text = text.replaceAll('"columns":4', '"columns":2').replaceAll('"labelLimit":600', '"labelLimit":250');
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

  async function draw(element, spec, signals = {}) {
    views.get(element)?.finalize();
    const { view } = await vegaEmbed(element, themed(spec), { actions: false, renderer: "svg", tooltip: { theme: dark.matches ? "dark" : "light" } });
    for (const [name, value] of Object.entries(signals)) view.signal(name, value);
    await view.runAsync();
    views.set(element, view);
    return view;
  }

  const scales = [[1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""]];
  function amount(value, unit) {
    if (unit === "ms") return `${Number(value.toPrecision(3))} ms`;
    const [factor, prefix] = scales.find(([factor]) => value >= factor) ?? [1, ""];
    return `${Number((value / factor).toPrecision(3))} ${prefix}${unit}`.trim();
  }

  // The slider runs over the logarithm, from a little below the cheapest network to a little above the dearest.
  function limitOf(axis, place) {
    const [low, high] = [axis.costs[0] / 1.2, axis.costs[axis.costs.length - 1] * 1.02];
    return low * (high / low) ** (place / 1000);
  }

  const [select, slider] = [byId("axis"), byId("budget")];
  let front = null;

  function chosen() {
    const axis = content.axes[select.value];
    const limit = limitOf(axis, Number(slider.value));
    const step = axis.steps.filter((step) => step.limit <= limit).pop();
    byId("amount").textContent = `at most ${amount(limit, axis.unit)}`;
    slider.setAttribute("aria-valuetext", `at most ${amount(limit, axis.unit)}`);
    byId("choice").textContent = step ? step.text.trimEnd() : `No network fits; the smallest has ${amount(axis.costs[0], axis.unit)}.`;
    return { budget: limit, winner: step ? step.model : "" };
  }

  async function drawFront() {
    front = await draw(byId("chart"), content.axes[select.value].front, chosen());
  }

  async function move() {
    const signals = chosen();
    if (!front) return;
    for (const [name, value] of Object.entries(signals)) front.signal(name, value);
    await front.runAsync();
  }

  // Training curves are drawn when their fold is opened: the page is there sooner.
  function drawFold(fold) {
    for (const element of fold.querySelectorAll("[data-training]")) {
      if (!views.has(element)) draw(element, content.training[element.dataset.training]);
    }
  }

  function shade() {
    for (const row of document.querySelectorAll(".classes tbody tr")) {
      const cells = [...row.cells].slice(2);
      const all = cells.reduce((sum, cell) => sum + Number(cell.textContent), 0);
      for (const cell of cells) {
        const share = Number(cell.textContent) / (all || 1);
        if (!cell.classList.contains("hit") && share) cell.classList.add("heat");
        cell.style.setProperty("--share", cell.classList.contains("hit") ? share * 0.5 : Math.min(share * 2.5, 0.7));
      }
    }
  }

  const folds = [...document.querySelectorAll("#models details")];
  const openAll = (open) => folds.forEach((fold) => { fold.open = open; });
  function openTarget() {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target instanceof HTMLDetailsElement) target.open = true;
  }

  async function drawAll() {
    if (select) await drawFront();
    if (content.pruning) await draw(byId("curves"), content.pruning);
    for (const element of [...views.keys()].filter((element) => element.dataset.training)) {
      await draw(element, content.training[element.dataset.training]);
    }
    document.documentElement.dataset.ready = "yes";
  }

  if (select) {
    select.addEventListener("change", drawFront);
    slider.addEventListener("input", move);
  }
  folds.forEach((fold) => fold.addEventListener("toggle", () => fold.open && drawFold(fold)));
  byId("open").addEventListener("click", (event) => {
    const open = folds.some((fold) => !fold.open);
    openAll(open);
    event.target.textContent = open ? "Close all" : "Open all";
  });
  addEventListener("hashchange", openTarget);
  addEventListener("beforeprint", () => openAll(true));
  dark.addEventListener("change", drawAll);
  shade();
  openTarget();
  drawAll();
})();
