"use strict";
// Draws the panels of `tune plot` from the page's JSON. All text is inserted as text nodes, so that names and prompts are never parsed as markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const SVG = "http://www.w3.org/2000/svg";
  const state = { step: null, off: new Set(), smooth: data.smooth, log: new Set(data.panels.filter((p) => p.log).map((p) => p.metric)) };
  const charts = [];

  function make(parent, name, attributes = {}, text = "") {
    const isSvg = parent instanceof SVGElement || name === "svg";
    const node = isSvg ? document.createElementNS(SVG, name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== "") node.textContent = text;
    parent.append(node);
    return node;
  }

  const strokeOf = (run) => ({ stroke: `var(--c${run.colour})`, "stroke-dasharray": run.dash });
  const isCrowded = data.runs.length > 8;
  const visible = () => data.runs.filter((run) => !state.off.has(run));

  function swatch(parent, run) {
    const svg = make(parent, "svg", { class: "swatch", "aria-hidden": "true" });
    make(svg, "line", { x1: 0, x2: 26, y1: 4, y2: 4, ...strokeOf(run) });
  }

  // Format a number for an axis or the tooltip.
  function formatNumber(value, digits) {
    const size = Math.abs(value);
    if (value !== 0 && (size < 1e-3 || size >= 1e7)) return String(Number(value.toPrecision(digits)).toExponential()).replace("e+", "e");
    return value.toLocaleString("en", { maximumSignificantDigits: digits, useGrouping: true });
  }

  function niceTicks(low, high, count) {
    const rough = (high - low) / Math.max(1, count);
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.999);
    const ticks = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high * (1 + 1e-12) + step * 1e-9; i++) ticks.push(i * step + 0); // not -0
    return ticks;
  }

  function logTicks(low, high, count) {
    const decades = Math.log10(high / low);
    if (decades < 1) return niceTicks(low, high, count).filter((tick) => tick > 0);
    const every = Math.max(1, Math.ceil(decades / count));
    const ticks = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += every) {
      for (const digit of decades < count / 3 ? [1, 2, 5] : [1]) {
        const tick = digit * 10 ** power;
        if (tick >= low && tick <= high) ticks.push(tick);
      }
    }
    return ticks;
  }

  // Compute the moving average described in _curves.py from columns of (middle, mean, count).
  function movingAverage(columns, steps) {
    const half = Math.floor(steps / 2);
    let low = 0;
    let high = 0;
    return columns.map(([middle]) => {
      while (columns[low][0] < middle - half) low++;
      while (high < columns.length && columns[high][0] <= middle + half) high++;
      let [sum, total] = [0, 0];
      for (let i = low; i < high; i++) {
        const weight = columns[i][2] * (half + 1 - Math.abs(columns[i][0] - middle));
        sum += columns[i][1] * weight;
        total += weight;
      }
      return [middle, sum / total];
    });
  }

  const curveOf = (run, panel) => run.curves[panel.metric] ?? { points: [] };
  const marksOf = (run, panel) => (panel.marks && run.curves[panel.marks]?.points) || [];
  const columnsOf = (curve) => curve.columns ?? curve.points.map(([step, value]) => [step, value, 1]);
  const isSmooth = (panel) => panel.noisy && state.smooth > 1;

  function domainOf(panel, isLog) {
    let [low, high] = [Infinity, -Infinity];
    for (const run of visible()) {
      for (const points of [curveOf(run, panel).points, marksOf(run, panel)]) {
        for (const [, value] of points) {
          if (isLog && value <= 0) continue;
          low = Math.min(low, value);
          high = Math.max(high, value);
        }
      }
    }
    if (low > high) return isLog ? [1, 10] : [0, 1];
    if (low === high) return isLog ? [low / 2, high * 2] : [low - (Math.abs(low) / 2 || 0.5), high + (Math.abs(high) / 2 || 0.5)];
    const space = isLog ? (high / low) ** 0.04 : (high - low) * 0.04;
    return isLog ? [low / space, high * space] : [low >= 0 ? Math.max(0, low - space) : low - space, high + space];
  }

  function draw(chart) {
    const { svg, panel } = chart;
    const [width, height] = [svg.clientWidth, svg.clientHeight];
    if (!width) return;
    const isLog = state.log.has(panel.metric);
    const [low, high] = domainOf(panel, isLog);
    const ticks = (isLog ? logTicks : niceTicks)(low, high, Math.max(2, Math.floor(height / 55)));
    const labels = ticks.map((tick) => formatNumber(tick, 4));
    const left = 14 + 6.6 * Math.max(3, ...labels.map((label) => label.length));
    const [right, top, bottom] = [14, 10, height - 24];
    const x = (step) => left + ((step - data.first) / (data.last - data.first)) * (width - left - right);
    const fraction = isLog ? (v) => Math.log(v / low) / Math.log(high / low) : (v) => (v - low) / (high - low);
    const y = (value) => bottom - fraction(value) * (bottom - top);
    svg.replaceChildren();
    make(svg, "title", { id: `title-${panel.metric}` }, `${panel.title} ${panel.unit} of ${visible().map((r) => r.name).join(", ")} over the steps`);
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    ticks.forEach((tick, i) => {
      make(svg, "line", { class: "grid", x1: left, x2: width - right, y1: y(tick), y2: y(tick) });
      make(svg, "text", { x: left - 6, y: y(tick) + 4, "text-anchor": "end" }, labels[i]);
    });
    make(svg, "line", { class: "axis", x1: left, x2: width - right, y1: bottom, y2: bottom });
    const steps = niceTicks(data.first, data.last, Math.max(2, Math.floor((width - left) / 90))).filter(Number.isInteger);
    for (const step of steps) {
      const anchor = x(step) > width - 30 ? "end" : "middle";
      make(svg, "text", { x: x(step) + (anchor === "end" ? right : 0), y: bottom + 16, "text-anchor": anchor }, step.toLocaleString("en"));
    }
    Object.assign(chart, { x, left, right, width, top, bottom });
    const fits = ([, value]) => !isLog || value > 0;
    const path = (points) => points.filter(fits).map(([s, v], i) => `${i ? "L" : "M"}${x(s).toFixed(1)} ${y(v).toFixed(1)}`).join("");
    const dot = (run, [s, v], r) => make(svg, "circle", { class: "mark", cx: x(s), cy: y(v), r, fill: `var(--c${run.colour})` });
    const runs = visible().reverse(); // the first run is on top
    for (const run of runs) {
      const { points } = curveOf(run, panel);
      if (points.length === 1) points.filter(fits).forEach((point) => dot(run, point, 4));
      else if (isSmooth(panel)) make(svg, "path", { class: `curve raw${isCrowded ? " faint" : ""}`, d: path(points), stroke: `var(--c${run.colour})` });
      else make(svg, "path", { class: "curve alone", d: path(points), ...strokeOf(run) });
    }
    for (const run of runs.filter(() => isSmooth(panel))) {
      const columns = columnsOf(curveOf(run, panel));
      if (columns.length > 1) make(svg, "path", { class: "curve", d: path(movingAverage(columns, state.smooth)), ...strokeOf(run) });
    }
    for (const run of runs) {
      const marks = marksOf(run, panel);
      make(svg, "path", { class: "curve between", d: path(marks), ...strokeOf(run) });
      marks.filter(fits).forEach((point) => dot(run, point, marks.length > 60 || isCrowded ? 2.5 : 4));
    }
    chart.cross = make(svg, "line", { class: "cross", y1: top, y2: bottom, visibility: "hidden" });
    if (state.step !== null) cross(chart);
    if (!data.runs.some((run) => curveOf(run, panel).points.length || marksOf(run, panel).length)) {
      make(svg, "text", { x: (left + width) / 2, y: height / 2, "text-anchor": "middle" }, "no value yet");
    }
  }

  // Return the index of the point nearest to a step; -1 for a curve without points.
  function nearest(points, step) {
    let [low, high] = [0, points.length - 1];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (points[middle][0] < step) low = middle + 1;
      else high = middle;
    }
    return low > 0 && step - points[low - 1][0] <= points[low][0] - step ? low - 1 : Math.min(low, points.length - 1);
  }

  function pointAt(curve, step) {
    const point = curve.points[nearest(curve.points, step)];
    if (!point) return null;
    // If a curve has fewer points than steps, the nearest point is shown with its step.
    const width = curve.columns ? (2 * (data.last - data.first)) / curve.columns.length : 0;
    return Math.abs(point[0] - step) <= width ? point : null;
  }

  const cell = ([pointStep, value], step) => formatNumber(value, 5) + (pointStep === step ? "" : ` (step ${pointStep.toLocaleString("en")})`);

  function stepNear(chart, target) {
    let closest = null;
    for (const run of visible()) {
      for (const points of [curveOf(run, chart.panel).points, marksOf(run, chart.panel)]) {
        const point = points[nearest(points, target)];
        if (point && (closest === null || Math.abs(point[0] - target) < Math.abs(closest - target))) closest = point[0];
      }
    }
    return closest;
  }

  function cross(chart) {
    chart.cross.setAttribute("x1", chart.x(state.step));
    chart.cross.setAttribute("x2", chart.x(state.step));
    chart.cross.setAttribute("visibility", "visible");
  }

  function show(chart, step) {
    if (step === null) return hide();
    state.step = step;
    charts.filter((each) => each.cross).forEach(cross);
    charts.filter((each) => each !== chart).forEach((each) => (each.tip.hidden = true));
    const { tip, panel, svg } = chart;
    tip.replaceChildren();
    const hasMarks = visible().some((run) => marksOf(run, panel).some(([at]) => at === step));
    make(tip, "div", { class: "dim" }, `step ${step.toLocaleString("en")}`);
    const table = make(tip, "table");
    for (const run of visible()) {
      const row = make(table, "tr");
      swatch(make(row, "td"), run);
      make(row, "td", {}, run.name);
      const point = pointAt(curveOf(run, panel), step);
      make(row, "td", { class: "number" }, point ? cell(point, step) : "–");
      const mark = marksOf(run, panel).find(([at]) => at === step);
      if (hasMarks) make(row, "td", { class: "number" }, mark ? `validation ${formatNumber(mark[1], 5)}` : "");
    }
    tip.hidden = false;
    const [inner, outer] = [svg.getBoundingClientRect(), chart.figure.getBoundingClientRect()];
    const x = inner.left - outer.left + chart.x(step);
    const left = x + 14 + tip.offsetWidth < chart.figure.clientWidth ? x + 14 : Math.max(4, x - 14 - tip.offsetWidth);
    tip.style.left = `${left}px`;
    tip.style.top = `${inner.top - outer.top + 10}px`;
  }

  function hide() {
    state.step = null;
    for (const { cross, tip } of charts) {
      cross?.setAttribute("visibility", "hidden");
      tip.hidden = true;
    }
  }

  function move(chart, key) {
    const from = state.step ?? (key === "ArrowLeft" ? data.last + 1 : data.first - 1);
    const steps = visible().flatMap((run) => curveOf(run, chart.panel).points.map(([step]) => step));
    const side = { ArrowRight: (s) => s > from, ArrowLeft: (s) => s < from, Home: () => true, End: () => true }[key];
    const isFirst = key === "ArrowRight" || key === "Home";
    const next = steps.filter(side).reduce((a, b) => (a === null || (isFirst ? b < a : b > a) ? b : a), null);
    if (next !== null) show(chart, next);
  }

  function addChart(panel, number) {
    const figure = make(panels, "figure", number ? {} : { class: "wide" });
    const caption = make(figure, "figcaption");
    make(caption, "span", {}, panel.title);
    const hasMarks = panel.marks && data.runs.some((run) => marksOf(run, panel).length);
    make(caption, "span", { class: "unit" }, [panel.unit, hasMarks ? "points: validation" : ""].filter(Boolean).join("; "));
    const label = make(caption, "label");
    const box = make(label, "input", { type: "checkbox", "aria-label": `${panel.title}: logarithmic axis` });
    make(label, "span", {}, "log");
    box.checked = state.log.has(panel.metric);
    const svg = make(figure, "svg", { class: "chart", role: "img", tabindex: 0, "aria-labelledby": `title-${panel.metric}` });
    const tip = make(figure, "div", { class: "tip", role: "status", hidden: "" });
    const chart = { panel, figure, svg, tip, cross: null };
    charts.push(chart);
    box.addEventListener("change", () => {
      state.log[box.checked ? "add" : "delete"](panel.metric);
      draw(chart);
    });
    const point = (event) => {
      const offset = event.clientX - svg.getBoundingClientRect().left - chart.left;
      const fraction = offset / (chart.width - chart.left - chart.right);
      show(chart, stepNear(chart, data.first + fraction * (data.last - data.first)));
    };
    svg.addEventListener("pointermove", point);
    svg.addEventListener("pointerdown", point);
    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("blur", hide);
    svg.addEventListener("keydown", (event) => {
      if (event.key === "Escape") hide();
      if (!["ArrowLeft", "ArrowRight", "Home", "End"].includes(event.key)) return;
      event.preventDefault();
      move(chart, event.key);
    });
    new ResizeObserver(() => draw(chart)).observe(svg);
  }

  function addSwitches() {
    const bar = document.getElementById("switches");
    for (const run of data.runs) {
      const button = make(bar, "button", { type: "button", class: "run", "aria-pressed": "true", title: "show or hide" });
      swatch(button, run);
      make(button, "span", {}, run.name);
      button.addEventListener("click", () => {
        const isOff = !state.off.has(run);
        state.off[isOff ? "add" : "delete"](run);
        button.setAttribute("aria-pressed", String(!isOff));
        hide();
        charts.forEach(draw);
      });
    }
    const label = make(bar, "label");
    make(label, "span", {}, "smoothing");
    // The fraction of the run is the cube of the slider's position, so that small values can be set more precisely.
    const slider = make(label, "input", { type: "range", min: 0, max: 100, step: 1 });
    const output = make(label, "output");
    const most = Math.max(3, data.last - data.first, data.smooth);
    const updateLabel = () => (output.textContent = state.smooth > 1 ? `${state.smooth.toLocaleString("en")} steps` : "none");
    slider.value = 100 * Math.cbrt((data.smooth - 1) / most);
    slider.addEventListener("input", () => {
      state.smooth = 2 * Math.round(((slider.value / 100) ** 3 * most) / 2) + 1;
      updateLabel();
      charts.forEach(draw);
    });
    updateLabel();
  }

  const panels = document.getElementById("panels");
  panels.style.setProperty("--small", Math.min(5, Math.max(1, data.panels.length - 1)));
  addSwitches();
  data.panels.forEach(addChart);
})();
