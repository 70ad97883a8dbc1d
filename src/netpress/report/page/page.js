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
  const roundedUp = (value) => rounded(value) < value ? rounded(value * 1.005) : rounded(value);
  function amount(value, unit) {
    if (unit === "ms") return `${value} ms`;
    const [factor, prefix] = SCALES.find(([factor]) => value >= factor) ?? [1, ""];
    const short = unit === "B";
    return `${rounded(value / factor)} ${prefix}${short ? "" : " "}${unit}`.replace("  ", " ");
  }

  // A number as people write it, "40 kB" or "1.5M", or NaN; the unit is that of the axis.
  function written(text) {
    const [, number, prefix] = /^\s*(\d+\.?\d*|\.\d+)\s*([kMG]?)/.exec(text.replaceAll(",", "")) ?? [];
    return Number(number) * (SCALES.find(([, one]) => one === prefix)?.[0] ?? 1);
  }

  const [select, slider, field] = [byId("axis"), byId("budget"), byId("amount")];
  const axisNow = () => content.axes[select.value];
  const costs = (axis) => Object.values(axis.costs);
  let front = null;
  let winner = ""; // the model that is named now

  // The slider runs over the logarithm, from a little below the cheapest network to a little above the dearest.
  function ends(axis) {
    return [Math.min(...costs(axis)) / 1.2, Math.max(...costs(axis)) * 1.02];
  }

  let limit; // the budget

  function slide() {
    const [low, high] = ends(axisNow());
    limit = rounded(low * (high / low) ** (slider.value / 1000));
    show();
  }

  function setLimit(value) {
    const [low, high] = ends(axisNow());
    slider.value = Math.ceil((1000 * Math.log(value / low)) / Math.log(high / low));
    limit = value;
  }

  // What cannot be read as a number is marked, and the budget stays.
  function write() {
    const value = written(field.value);
    if (value > 0) {
      setLimit(value);
      show();
    } else field.setAttribute("aria-invalid", "true");
  }

  // What fits is told in words; the chart, if it is drawn already, follows.
  async function show() {
    const axis = axisNow();
    const step = axis.steps.filter((one) => one.limit <= limit).pop();
    winner = step?.model ?? "";
    const [first, ...rest] = step ? step.text.trimEnd().split("\n") : [];
    field.setAttribute("aria-invalid", "false");
    if (document.activeElement !== field) field.value = amount(limit, axis.unit);
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
    setLimit(roundedUp(axisNow().costs[winner] ?? ends(axisNow())[1]));
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
    setLimit(roundedUp(ends(axisNow())[1]));
    select.addEventListener("change", changeAxis);
    slider.addEventListener("input", slide);
    field.addEventListener("input", write);
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
