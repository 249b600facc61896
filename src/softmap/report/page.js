"use strict";
(() => {
  const payload = JSON.parse(document.getElementById("payload").textContent);
  const root = document.documentElement;
  const find = (query) => document.querySelector(query);
  const all = (query) => [...document.querySelectorAll(query)];
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  let printing = false;
  const theme = () => (printing ? "light" : root.dataset.theme || (prefersDark.matches ? "dark" : "light"));

  // ---- theme: the style sheet's, of the charts too; only the maps hold pixels --------------------
  function paintTheme() {
    find("#theme").textContent = theme() === "dark" ? "Light" : "Dark";
    drawMaps();
  }

  find("#theme").addEventListener("click", () => {
    root.dataset.theme = theme() === "dark" ? "light" : "dark";
    paintTheme();
  });
  prefersDark.addEventListener("change", paintTheme);
  addEventListener("beforeprint", () => {
    printing = true;
    for (const { view } of charts) view.signal("width", 640).run(); // as wide as a sheet of paper
    drawMaps();
  });
  addEventListener("afterprint", () => {
    printing = false;
    dispatchEvent(new Event("resize"));
    drawMaps();
  });

  // ---- charts ----------------------------------------------------------------------------------
  const charts = [];
  let focused = null;
  const shown = () => all(".chip input:checked").map((box) => box.value);

  /** Every variant that a specification holds data of. */
  function variants(node) {
    if (node === null || typeof node !== "object") return [];
    return [...("variant" in node ? [node.variant] : []), ...Object.values(node).flatMap(variants)];
  }

  async function drawCharts() {
    const config = payload.config;
    if (innerWidth < 500) config.axis.labelLimit = 110;
    for (const [key, spec] of Object.entries(payload.charts)) {
      const holds = new Set(variants(spec));
      const { view } = await vegaEmbed(`#chart-${key}`, spec, { actions: false, renderer: "svg", config });
      charts.push({ view, holds, figure: find(`#chart-${key}`).closest("figure") });
      // An area may be a band that is not seen.
      view.addEventListener("pointerover", (_, item) => item?.mark.marktype !== "area" && focus(item?.datum?.variant));
      view.addEventListener("pointerout", () => focus(null));
    }
    showCharts(); // boxes may have been used meanwhile
  }

  function focus(label = null) {
    if (label === focused) return;
    focused = label;
    for (const { view } of charts) view.signal("focus", label).runAsync();
  }

  /** A chart of which nothing is left keeps its place and is not drawn: its axes would have no ends. */
  function showCharts() {
    const on = shown();
    for (const { view, holds, figure } of charts) {
      const empty = !on.some((label) => holds.has(label));
      figure.classList.toggle("empty", empty);
      if (!empty) view.signal("shown", on).runAsync();
    }
  }

  function showVariants() {
    const on = new Set(shown());
    showCharts();
    for (const row of all(".cards tbody tr")) row.classList.toggle("off", !on.has(row.dataset.variant));
    for (const map of all(".map")) map.hidden = !on.has(map.dataset.variant);
    drawMaps();
  }

  for (const chip of all(".chip")) {
    const box = chip.querySelector("input");
    const point = () => focus(box.checked ? box.value : null);
    box.addEventListener("change", () => {
      showVariants();
      if (!box.checked) focus(null); // else all that is left would stay faded
    });
    chip.addEventListener("pointerenter", point);
    chip.addEventListener("pointerleave", () => focus(null));
    box.addEventListener("focus", () => box.matches(":focus-visible") && point());
    box.addEventListener("blur", () => focus(null));
  }
  const check = (wanted) => () => {
    for (const box of all(".chip input")) box.checked = wanted(box.value);
    showVariants();
  };
  find("#all").addEventListener("click", check(() => true));
  find("#none")?.addEventListener("click", check((label) => label === payload.labels[0]));

  // ---- table -----------------------------------------------------------------------------------
  function sortBy(heading) {
    const column = [...heading.parentElement.children].indexOf(heading);
    const sign = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const other of heading.parentElement.children) other.setAttribute("aria-sort", "none");
    heading.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    const body = heading.closest("table").tBodies[0];
    const value = (row) => parseFloat(row.children[column].dataset.sort);
    const compare = (a, b) => {
      if (isNaN(a) || isNaN(b)) return isNaN(a) - isNaN(b); // what was not measured comes last
      return sign * (a - b);
    };
    body.append(...[...body.rows].sort((a, b) => compare(value(a), value(b))));
  }
  for (const button of all(".cards thead button")) {
    button.addEventListener("click", () => sortBy(button.closest("th")));
  }

  // ---- attention maps --------------------------------------------------------------------------
  const layers = find("#layer"), heads = find("#head");
  const FIRST_ROWS = 8; // queries with so few keys that their weights are large anyway
  let pair = null;
  for (const map of Object.values(payload.maps)) {
    map.codes = Int8Array.from(atob(map.data), (letter) => letter.charCodeAt(0));
    map.pairs = (map.size * (map.size + 1)) / 2;
  }

  function fill(select, values, name) {
    for (const value of values) select.add(new Option(`${name}${value + 1}`, value));
  }

  function union(key) {
    return [...new Set(Object.values(payload.maps).flatMap((map) => map[key]))].sort((a, b) => a - b);
  }

  /** Weights (T x T as rows of the lower triangle) of the chosen layer and head, or their mean. */
  function weights(map) {
    const nearest = (list, wanted) =>
      list.reduce((best, x, i) => (Math.abs(x - wanted) < Math.abs(list[best] - wanted) ? i : best), 0);
    const layer = nearest(map.layers, Number(layers.value));
    const mean = heads.value === "mean";
    const chosen = mean ? map.heads.map((_, i) => i) : [nearest(map.heads, Number(heads.value))];
    const values = new Float32Array(map.pairs);
    for (const head of chosen) {
      const start = (layer * map.heads.length + head) * map.pairs;
      const scale = map.scales[layer][head] / chosen.length;
      for (let p = 0; p < map.pairs; p++) {
        const code = map.codes[start + p] / 127;
        values[p] += scale * code * Math.abs(code);
      }
    }
    const head = mean && chosen.length > 1 ? `mean of ${chosen.length} heads` : `head ${map.heads[chosen[0]] + 1}`;
    return { values, which: `layer ${map.layers[layer] + 1}, ${head}` };
  }

  const ramps = {
    // zero, then towards +1; negative weights run from zero towards the last
    light: { zero: [255, 255, 255], high: [[158, 202, 240], [33, 113, 181], [5, 34, 84]], low: [[250, 180, 138], [196, 72, 14], [96, 26, 0]] },
    dark: { zero: [21, 24, 28], high: [[30, 74, 124], [63, 146, 224], [214, 238, 255]], low: [[116, 48, 14], [226, 110, 44], [255, 226, 200]] },
  };

  function colour(share) {
    const ramp = ramps[theme()];
    const stops = [ramp.zero, ...(share < 0 ? ramp.low : ramp.high)];
    const place = Math.min(Math.sqrt(Math.abs(share)), 1) * 3;
    const i = Math.min(Math.floor(place), 2);
    return stops[i].map((from, channel) => from + (place - i) * (stops[i + 1][channel] - from));
  }

  function drawMaps() {
    const panels = all(".map").filter((panel) => !panel.hidden);
    let limit = 0, signed = false;
    for (const panel of panels) {
      panel.drawn = weights(payload.maps[panel.dataset.variant]);
      const skipped = (FIRST_ROWS * (FIRST_ROWS + 1)) / 2;
      panel.drawn.values.forEach((value, at) => {
        if (at >= skipped || panel.drawn.values.length <= skipped) limit = Math.max(limit, Math.abs(value));
        signed ||= value < 0;
      });
    }
    for (const panel of panels) drawMap(panel, limit || 1);
    if (panels.length) drawScale(limit || 1, signed);
    readOut();
  }

  function drawMap(panel, limit) {
    const { size } = payload.maps[panel.dataset.variant];
    const canvas = panel.querySelector("canvas");
    canvas.width = canvas.height = size;
    const context = canvas.getContext("2d");
    const image = context.createImageData(size, size);
    for (let i = 0, p = 0; i < size; i++) {
      for (let j = 0; j <= i; j++, p++) {
        image.data.set([...colour(panel.drawn.values[p] / limit), 255], 4 * (i * size + j));
      }
    }
    if (pair) markPair(image, size);
    context.putImageData(image, 0, 0);
    panel.querySelector(".which").textContent = panel.drawn.which;
  }

  /** Tint the row of the query and the column of the key, so that the eye finds the pair. */
  function markPair(image, size) {
    const tint = (i, j) => {
      const at = 4 * (i * size + j);
      const mark = [230, 170, 0];
      const strength = image.data[at + 3] ? 0.3 : 0.22;
      for (let c = 0; c < 3; c++) {
        image.data[at + c] = (1 - strength) * (image.data[at + 3] ? image.data[at + c] : 128) + strength * mark[c];
      }
      image.data[at + 3] = image.data[at + 3] || 70;
    };
    for (let k = 0; k < size; k++) {
      if (k !== pair.key) tint(pair.query, k);
      if (k !== pair.query) tint(k, pair.key);
    }
  }

  function drawScale(limit, signed) {
    const canvas = find("#scale"), context = canvas.getContext("2d");
    const image = context.createImageData(200, 1);
    for (let x = 0; x < 200; x++) {
      const share = signed ? x / 99.5 - 1 : x / 199;
      image.data.set([...colour(Math.sign(share) * share * share), 255], 4 * x);
    }
    context.putImageData(image, 0, 0);
    find("#scale-low").textContent = signed ? `\u2212${limit.toPrecision(2)}` : "0";
    find("#scale-high").textContent = limit.toPrecision(2);
  }

  const visible = (token) => (token ?? "?").replaceAll("\n", "\u23ce").replaceAll("\t", "\u21e5").replaceAll(" ", "\u00b7");

  function readOut() {
    const line = find("#pair");
    if (!line) return;
    line.replaceChildren();
    if (!pair) line.textContent = "No pair chosen.";
    else {
      const code = (at) => Object.assign(document.createElement("code"), { textContent: visible(payload.tokens[at]) });
      line.append("Query ", code(pair.query), ` (${pair.query + 1}) looks at key `, code(pair.key), ` (${pair.key + 1}).`);
    }
    for (const panel of all(".map")) {
      const value = panel.drawn?.values[pair ? (pair.query * (pair.query + 1)) / 2 + pair.key : -1];
      panel.querySelector(".value").textContent =
        value === undefined ? "\u00a0" : `weight ${value.toFixed(4).replace("-", "\u2212")}`;
    }
  }

  function choose(query, key, size) {
    const inside = (x) => Math.max(0, Math.min(size - 1, x));
    pair = { query: inside(query), key: Math.min(inside(key), inside(query)) };
    drawMaps();
  }

  for (const panel of all(".map")) {
    const canvas = panel.querySelector("canvas");
    const { size } = payload.maps[panel.dataset.variant];
    const point = (event) => {
      const box = canvas.getBoundingClientRect();
      const at = (position, length) => Math.floor((position / length) * size);
      choose(at(event.clientY - box.top, box.height), at(event.clientX - box.left, box.width), size);
    };
    canvas.addEventListener("pointermove", point);
    canvas.addEventListener("pointerdown", point);
    canvas.addEventListener("keydown", (event) => {
      const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (!move) return;
      event.preventDefault();
      const from = pair || { query: size - 1, key: size - 1 };
      choose(from.query + move[0], from.key + move[1], size);
    });
  }

  if (layers) {
    fill(layers, union("layers"), "");
    heads.add(new Option("mean of all", "mean"));
    fill(heads, union("heads"), "");
    layers.value = union("layers").at(Math.floor(union("layers").length / 2));
    heads.value = "mean";
    for (const select of [layers, heads]) select.addEventListener("change", drawMaps);
  }

  // ---- copying and saving ----------------------------------------------------------------------
  async function copy(button) {
    const source = document.getElementById(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(source.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(source); // no clipboard access: leave it selected
      button.textContent = "Selected";
    }
    setTimeout(() => (button.textContent = "Copy"), 1600);
  }
  for (const button of all("[data-copy]")) button.addEventListener("click", () => copy(button));

  function save(kind) {
    const text = kind === "csv" ? payload.csv : JSON.stringify(payload.report, null, 1);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: kind === "csv" ? "text/csv" : "application/json" }));
    link.download = `report.${kind}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }
  for (const button of all("[data-save]")) button.addEventListener("click", () => save(button.dataset.save));

  paintTheme();
  drawCharts();
})();
