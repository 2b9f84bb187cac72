// The page's sections, built with charts.js.

function summary() {
  const tiles = $(".tiles");
  const tile = (value, unit, text, klass = "") =>
    tiles.append(make("div", { class: "tile" }, make("b", { class: klass }, value, make("small", {}, unit)), make("span", {}, text)));
  for (const result of results) {
    const several = result.runs ? `, mean of ${result.runs.length} runs` : "";
    tile(percent(result.miou), `${plusMinus(result.spread?.miou)} % mIoU`, result.name + several);
  }
  if (results.length > 1) {
    const gain = minus(results.at(-1).miou, results[0].miou);
    tile(signed(gain), " points", `${results.at(-1).name} against ${results[0].name}`, direction(gain));
  }
  for (const run of results.length ? [] : data.runs) tile(run.iterations.toLocaleString("en"), " iterations", run.name);
  $("#subtitle").textContent = [...new Set(data.runs.map((run) => `${run.title} (${run.network})`))].join(" → ");
  for (const section of document.querySelectorAll("section:not([hidden]) > h2")) {
    $("nav").append(make("a", { href: `#${section.parentNode.id}` }, section.textContent));
  }
}

// A value with its standard deviation over runs.
const plusMinus = (deviation) => (deviation === null || deviation === undefined ? "" : ` ± ${percent(deviation)}`);
const spreads = (value, deviation) => percent(value) + plusMinus(deviation);

function progress() {
  const { curves, list } = data.progress;
  if (!curves.length) return;
  $("#progress").hidden = false;
  const several = curves.some((curve) => curve.band.length) ? " Lines are means over runs; bands span the lowest to the highest." : "";
  $("#progress .note").textContent = `The student's mIoU on ${list} during training.${several}`;
  const width = Math.max(300, Math.min(1080, document.documentElement.clientWidth - 84));
  $("#progress").append(chart(`mIoU on ${list}`, curves, { share: true, marks: true, x: "epoch", y: "mIoU", width, height: 300 }));
}

function classes() {
  if (!results.length) return;
  const [first, last, two] = [results[0], results.at(-1), results.length > 1];
  $("#classes").hidden = false;
  const runs = results.filter((r) => r.runs).map((r) => ` ${r.name}: ${r.runs.map(percent).join(", ")} (mean ± standard deviation).`);
  const made = data.scores.made.map((m) => ` ${m.name}: masks from ${m.snapshot}${m.weights === "teacher" ? ", the teacher" : ""}.`);
  $("#classes .note").textContent = `IoU in percent: ${data.scores.source}.${runs.join("")}${made.join("")}`;
  const head = ["Class", ...results.map((result) => result.name), ...(two ? ["Difference"] : []), AXIS];
  const row = (label, values, klass, deviations) => {
    const gain = minus(values.at(-1), values[0]);
    return make("tr", { class: klass }, make("th", { scope: "row" }, ...label),
      ...values.map((value, i) => make("td", {}, spreads(value, deviations[i]))),
      two ? make("td", { class: direction(gain) }, signed(gain)) : null, make("td", { class: "bar" }, bar(values)));
  };
  const body = data.classes.map(({ name, colour }, c) => {
    const out = data.ignore.includes(c);
    return row([swatch(colour), name + (out ? " (not in the mean)" : "")], results.map((r) => r.iou[c] ?? null), out ? "wanting" : "",
      results.map((r) => r.spread?.iou[c]));
  });
  $(".iou").append(make("caption", { class: "skip" }, "IoU per class"),
    heads(head), make("tbody", {}, ...body, row(["Mean"], results.map((r) => r.miou), "", results.map((r) => r.spread?.miou))));
  $(".iou thead th:last-child").setAttribute("aria-label", `${first.name} to ${last.name}`);
}

const AXIS = "0 to 100 %"; // of the bars
const heads = (texts) => make("thead", {}, make("tr", {}, ...texts.map((text) => make("th", { scope: "col", class: text === AXIS ? "bar" : null }, text))));

// From the first network's value (ring) to the last one's (dot), on an axis from 0 to 100 %.
function bar(values) {
  const [a, b] = [values[0], values.at(-1)];
  const svg = make("svg", { "aria-hidden": "true" }, make("line", { x1: "0", x2: "100%", y1: 8, y2: 8, stroke: "var(--line)", "stroke-width": 2 }));
  const at = (value) => `${(100 * value).toFixed(1)}%`;
  const colour = `var(--${{ up: "good", down: "bad", "": values.length > 1 ? "before" : "accent" }[direction(minus(b, a))]})`;
  if (a !== null && b !== null) svg.append(make("line", { x1: at(a), x2: at(b), y1: 8, y2: 8, stroke: colour, "stroke-width": 3 }));
  if (a !== null && values.length > 1) svg.append(make("circle", { cx: at(a), cy: 8, r: 4.5, fill: "var(--card)", stroke: "var(--before)", "stroke-width": 2 }));
  if (b !== null) svg.append(make("circle", { cx: at(b), cy: 8, r: 5, fill: colour }));
  return svg;
}

function images() {
  if (!data.images.length) return;
  $("#images").hidden = false;
  const [left, right, slider] = [$("#left"), $("#right"), $("#slider")];
  const kinds = Object.keys(data.images[0].pictures);
  for (const [select, chosen] of [[left, kinds[2]], [right, results.length > 1 ? results.at(-1).name : "truth"]]) {
    select.append(...kinds.map((kind) => make("option", kind === chosen ? { value: kind, selected: "" } : { value: kind }, kind)));
  }
  let current = data.images[0];
  const split = () => {
    $("#over").style.clipPath = `inset(0 ${100 - slider.value}% 0 0)`;
    $("#divider").style.left = `${slider.value}%`;
  };
  const show = () => {
    for (const [node, kind] of [[$("#over"), left.value], [$("#under"), right.value]]) {
      node.src = current.pictures[kind];
      node.alt = `${kind}: ${current.name}`;
    }
    $("#caption").textContent = `${current.name} · ${current.scores.map(percent).join(" → ")} % mIoU`;
    const changes = [left.value, right.value].includes("change");
    $("#legend").replaceChildren(...(changes
      ? [["#0072b2", "now right"], ["#d55e00", "now wrong"], ["#969696", "wrong in both"], ["#ebebeb", "right in both"], ["#000", "no label"]]
      : data.classes.map(({ name, colour }) => [colour, name])).map(([colour, name]) => make("li", {}, swatch(colour), name)));
    for (const button of document.querySelectorAll(".strip button")) {
      button.setAttribute("aria-pressed", button.dataset.name === current.name);
    }
  };
  const gain = (image) => minus(image.scores.at(-1), image.scores[0]);
  const two = results.length > 1;
  const [best, rest] = ["gained", "lost"].map((group) => data.images.filter((image) => image.group === group));
  const lost = rest.some((image) => gain(image) < 0) ? "Lost most" : "Gained least";
  const groups = two ? [["Gained most", best], [lost, rest]] : [["Images", data.images]];
  if (!two) $("#images .note").textContent = "Choose two pictures and drag the line to compare them.";
  for (const [title, members] of groups.filter(([, list]) => list.length)) {
    $("#strips").append(make("h3", {}, title), make("div", { class: "strip" }, ...members.map((image) =>
      make("button", { type: "button", "data-name": image.name, onclick: () => { current = image; show(); } },
        make("img", { src: image.pictures.input, alt: image.name }),
        two ? make("span", { class: direction(gain(image)) }, `${signed(gain(image))} points`) : image.name))));
  }
  left.addEventListener("change", show);
  right.addEventListener("change", show);
  slider.addEventListener("input", split);
  show();
  split();
}

function confusion() {
  const counted = results.filter((result) => result.confusion);
  if (!counted.length) return;
  $("#confusion").hidden = false;
  const shares = counted.map(({ confusion: rows }) => rows.map((row) => {
    const total = row.reduce((a, b) => a + b, 0);
    return row.map((count) => (total ? count / total : null));
  }));
  const views = counted.map((result, i) => [result.name, shares[i], false]);
  if (counted.length > 1) {
    const change = shares.at(-1).map((row, r) => row.map((x, c) => minus(x, shares[0][r][c])));
    views.push(["difference", change, true]);
  }
  const draw = ([title, rows, isChange]) => {
    for (const button of $("#confusion .choice").children) button.setAttribute("aria-pressed", button.textContent === title);
    const cell = (x, r, c) => {
      const good = isChange ? x > 0 === (r === c) : true;
      const strength = x === null ? 0 : Math.min(1, Math.abs(x) * (isChange ? 2 : 1));
      const whole = Math.round(100 * x);
      const text = whole === 0 ? "" : `${isChange ? (whole > 0 ? "+" : "−") : ""}${Math.abs(whole)}`;
      const ink = strength > 0.6 ? ";color:#fff" : "";
      return make("td", { class: r === c ? "hit" : "", style: `background:rgb(var(--${good ? "heat" : "cold"}) / ${strength.toFixed(2)})${ink}`,
        title: `${data.classes[r].name} predicted as ${data.classes[c].name}: ${isChange ? signed(x) : percent(x)} %` }, text);
    };
    $(".matrix").replaceChildren(make("thead", {}, make("tr", {}, make("td", { class: "corner" }, "true ↓ predicted →"),
      ...data.classes.map(({ name }) => make("th", { scope: "col" }, make("span", {}, name))))),
    make("tbody", {}, ...rows.map((row, r) => make("tr", {}, make("th", { scope: "row" }, data.classes[r].name), ...row.map((x, c) => cell(x, r, c))))));
  };
  $("#confusion .choice").append(...views.map((view) => make("button", { type: "button", onclick: () => draw(view) }, view[0])));
  draw(views[0]);
}

function why() {
  // Over the classes that have a value in every column.
  const means = (columns) => {
    const whole = data.classes.map((_, c) => c).filter((c) => !data.ignore.includes(c) && columns.every((values) => !values || values[c] !== null));
    return columns.map((values) => (values && whole.length ? whole.reduce((sum, c) => sum + values[c], 0) / whole.length : null));
  };
  if (data.why.some((run) => run.pseudo)) {
    $("#why .note").append(" Precision: the share that is correct, of all predictions (ring) and of those kept (dot), on the target's training views; training never uses these labels.");
  }
  for (const { name: title, runs, list, epoch, kept, fused, pseudo } of data.why) {
    $("#why").hidden = false;
    const head = ["Class", ...(kept ? ["Kept"] : []), ...(pseudo ? ["Precision of all", "Precision of kept", "Difference", AXIS] : [])];
    const row = (label, share, before, after) => make("tr", {}, make("th", { scope: "row" }, ...label),
      ...(kept ? [make("td", {}, percent(share))] : []),
      ...(pseudo ? [percent(before), percent(after)].map((text) => make("td", {}, text)) : []),
      ...(pseudo ? [make("td", { class: direction(minus(after, before)) }, signed(minus(after, before))),
        make("td", { class: "bar" }, bar([before, after]))] : []));
    const at = (values, c) => (values ? values[c] ?? null : null);
    const rows = data.classes.map(({ name, colour }, c) => row([swatch(colour), name], at(kept, c), at(fused, c), at(pseudo, c)));
    $("#why").append(make("h3", {}, title), make("p", { class: "note" }, `In percent, on ${list} after epoch ${epoch}${runs > 1 ? `, mean of ${runs} runs` : ""}.`),
      make("div", { class: "scroll" }, make("table", { class: "shares" }, make("caption", { class: "skip" }, "Pseudo labels per class"),
        heads(head), make("tbody", {}, ...rows, row(["Mean"], ...means([kept, fused, pseudo]))))));
  }
}

function training() {
  for (const run of data.runs) {
    const charts = [
      chart("Losses", run.losses, { y: "loss" }),
      chart("Student's mIoU on validation lists", run.student, { share: true, marks: true, y: "mIoU" }),
      chart("Teacher's mIoU on the target's training views", run.teacher, { share: true, marks: true, y: "mIoU" }),
      chart("Share of pixels with a pseudo label", run.kept, { share: true, y: "share" }),
      chart("Distance between teacher and student", run.distance, { y: "distance" }),
      chart("Images per second", run.speed, { y: "images per second" }), priors(run.prior),
    ].filter((node) => node !== null);
    const kind = `${run.kind}: ${run.iterations.toLocaleString("en")} iterations, up to epoch ${run.epochs}.`;
    $("#runs").append(make("h3", {}, run.name), make("p", { class: "note" }, kind),
      ...run.warnings.map((text) => make("p", { class: "warning" }, text)), make("div", { class: "grid" }, ...charts));
  }
}

function provenance() {
  const list = (pairs) => make("dl", {}, ...pairs.flatMap(([key, value]) => [make("dt", {}, key), make("dd", {}, make("code", {}, value))]));
  for (const run of data.runs) {
    $("#origins").append(make("div", { class: "origin" }, make("h3", {}, run.name), list(run.origin),
      make("details", {}, make("summary", {}, `${run.changed.length} configuration keys that differ from the defaults`), list(run.changed))));
  }
  for (const { name, ...facts } of data.scores.made || []) {
    $("#origins").append(make("div", { class: "origin" }, make("h3", {}, `Masks of ${name}`), list(Object.entries(facts))));
  }
}

progress();
classes();
images();
why();
confusion();
training();
provenance();
summary();
