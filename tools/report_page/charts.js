"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const results = data.scores.results || [];
const $ = (selector, root = document) => root.querySelector(selector);

// --- making elements

function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "path", "line", "circle", "text", "rect", "g"].includes(tag);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}
const swatch = (colour) => make("span", { class: "swatch", style: `background:${colour}`, "aria-hidden": "true" });
const percent = (x) => (x === null || x === undefined ? "–" : (100 * x).toFixed(1));
const direction = (x) => (x === null || Math.abs(x) < 0.0005 ? "" : x > 0 ? "up" : "down");
const SIGNS = { up: "+", down: "−", "": "±" };
const signed = (x) => (x === null ? "–" : SIGNS[direction(x)] + Math.abs(100 * x).toFixed(1));
const minus = (a, b) => (a === null || b === null || a === undefined || b === undefined ? null : a - b);
const short = (x) => {
  const size = Math.abs(x);
  if (size >= 1e6) return `${+(x / 1e6).toPrecision(3)}M`;
  if (size >= 1e4) return `${+(x / 1e3).toPrecision(3)}k`;
  return size !== 0 && size < 1e-3 ? x.toExponential(0) : `${+x.toPrecision(3)}`;
};

// --- curves

function ticks(low, high, count) {
  const raw = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((m) => m * power >= raw) * power;
  const found = [];
  for (let x = Math.ceil(low / step) * step; x <= high + step * 1e-6; x += step) found.push(+x.toPrecision(12));
  return found;
}

// Loss curves that start far above where they end are readable only on a logarithmic axis.
function wantsLog(values) {
  const sorted = values.filter((y) => y > 0).sort((a, b) => a - b);
  return sorted.length === values.length && sorted.at(-1) > 30 * sorted[Math.floor(sorted.length / 2)];
}

// Axis labels are `x` and `y`; a curve's `band` holds [x, lowest, highest].
function chart(title, curves, { share = false, marks = false, x: over = "iteration", y: unit = "", width = 360, height = 224 } = {}) {
  const shown = curves.filter((curve) => curve.points.length);
  if (!shown.length) return null;
  const [left, right, top, bottom] = [46, 10, 24, 38];
  const bands = shown.flatMap((curve) => curve.band || []);
  const xs = shown.flatMap((curve) => curve.points.map((p) => p[0]));
  const ys = [...shown.flatMap((curve) => curve.points.map((p) => p[1])), ...bands.flatMap((p) => p.slice(1))];
  const log = !share && wantsLog(ys);
  const scale = log ? Math.log10 : (y) => y;
  const [x0, x1] = [Math.min(...xs), Math.max(...xs)];
  const y0 = log ? Math.floor(scale(Math.min(...ys))) : Math.min(0, ...ys);
  const y1 = log ? Math.ceil(scale(Math.max(...ys))) : Math.max(...ys) * 1.05 || 1;
  const px = (x) => left + ((x - x0) / (x1 - x0 || 1)) * (width - left - right);
  const py = (y) => height - bottom - ((scale(y) - y0) / (y1 - y0 || 1)) * (height - top - bottom);
  const label = (y) => (share ? `${+(100 * y).toPrecision(3)} %` : short(y));
  const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
  const last = shown.map((curve) => `${curve.name} ends at ${label(curve.points.at(-1)[1])}`);
  svg.setAttribute("aria-label", `${title}: ${last.join(", ")}`);
  const levels = log ? Array.from({ length: y1 - y0 + 1 }, (_, i) => 10 ** (y0 + i)) : ticks(y0, y1, 4);
  for (const y of levels) {
    svg.append(make("line", { class: "axis", x1: left, x2: width - right, y1: py(y), y2: py(y) }));
    svg.append(make("text", { class: "tick", x: left - 7, y: py(y) + 4, "text-anchor": "end" }, label(y)));
  }
  for (const x of ticks(x0, x1, 5)) {
    svg.append(make("text", { class: "tick", x: px(x), y: height - bottom + 15, "text-anchor": "middle" }, short(x)));
  }
  svg.append(make("text", { class: "tick", x: (left + width - right) / 2, y: height - 5, "text-anchor": "middle" }, over));
  svg.append(make("text", { class: "tick", x: 2, y: 11 }, unit + (log ? ", log scale" : "")));
  shown.forEach((curve, i) => {
    if (curve.band && curve.band.length) {
      const edge = [...curve.band.map((p) => [p[0], p[2]]), ...[...curve.band].reverse().map((p) => [p[0], p[1]])];
      const area = edge.map(([x, y]) => `${px(x).toFixed(1)} ${py(y).toFixed(1)}`).join("L");
      svg.append(make("path", { class: "band", d: `M${area}Z`, style: `fill:var(--s${i % 6})` }));
    }
    const path = curve.points.map(([x, y], j) => `${j ? "L" : "M"}${px(x).toFixed(1)} ${py(y).toFixed(1)}`).join("");
    svg.append(make("path", { class: "curve", d: path, style: `stroke:var(--s${i % 6})` }));
    if (!marks && curve.points.length > 1) return;
    for (const [x, y] of curve.points) {
      svg.append(make("circle", { cx: px(x), cy: py(y), r: 2.6, style: `fill:var(--s${i % 6})` }));
    }
  });
  const keys = shown.map((curve, i) =>
    make("li", {}, make("span", { class: "key", style: `background:var(--s${i % 6})` }), curve.name));
  const figure = make("figure", { class: "chart" }, make("figcaption", {}, title),
    shown.length > 1 ? make("ul", { class: "legend" }, ...keys) : null, svg);
  readout(figure, svg, shown, { width, top, floor: height - bottom, px, label, over });
  return figure;
}

// A line at the pointer, with the curves' values there.
function readout(figure, svg, shown, { width, top, floor, px, label, over }) {
  const cursor = make("line", { class: "cursor", y1: top, y2: floor, visibility: "hidden" });
  const tip = make("div", { class: "tip", hidden: "" });
  svg.append(cursor);
  figure.append(tip);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * width;
    const nearest = shown.map((curve) =>
      curve.points.reduce((a, b) => (Math.abs(px(b[0]) - at) < Math.abs(px(a[0]) - at) ? b : a)));
    const x = nearest.reduce((a, b) => (Math.abs(px(b[0]) - at) < Math.abs(px(a[0]) - at) ? b : a))[0];
    cursor.setAttribute("x1", px(x));
    cursor.setAttribute("x2", px(x));
    cursor.setAttribute("visibility", "visible");
    tip.replaceChildren(make("div", {}, `${over} ${Math.round(x).toLocaleString("en")}`),
      ...nearest.map((point, i) => make("div", {}, `${shown[i].name}: ${label(point[1])}`)));
    tip.hidden = false;
    const side = event.clientX - box.left > box.width / 2;
    tip.style.left = side ? "" : `${(px(x) / width) * box.width + 28}px`;
    tip.style.right = side ? `${box.width - (px(x) / width) * box.width + 28}px` : "";
    tip.style.top = `${svg.offsetTop ?? 60}px`;
  });
  svg.addEventListener("pointerleave", () => {
    tip.hidden = true;
    cursor.setAttribute("visibility", "hidden");
  });
}

function priors(curves) {
  if (!curves.length) return null;
  const logs = curves.map((curve) => curve.points.map(([x, y]) => [x, Math.log10(Math.max(y, 1e-6))]));
  const all = logs.flat();
  const [x0, x1, y0, y1] = [0, 1].flatMap((k) => [Math.min(...all.map((p) => p[k])), Math.max(...all.map((p) => p[k]))]);
  const rows = logs.map((points, c) => {
    const path = points.map(([x, y], i) =>
      `${i ? "L" : "M"}${(2 + (60 * (x - x0)) / (x1 - x0 || 1)).toFixed(1)} ${(18 - (16 * (y - y0)) / (y1 - y0 || 1)).toFixed(1)}`);
    const value = curves[c].points.at(-1)[1];
    const { name, colour } = data.classes[c] || { name: `class ${c}`, colour: "#888" };
    return make("div", {}, make("span", {}, swatch(colour), name),
      make("svg", { viewBox: "0 0 64 20", "aria-hidden": "true" },
        make("path", { class: "curve", d: path.join(""), style: "stroke:var(--accent)" })),
      make("span", { class: "value" }, `${value < 0.001 ? "<0.1" : (100 * value).toFixed(1)} %`));
  });
  return make("figure", { class: "chart wider" }, make("figcaption", {}, "Class prior χ"),
    make("p", { class: "note" }, "Share of pixels that the teacher assigns to each class, all on the same log scale."),
    make("div", { class: "priors" }, ...rows));
}
