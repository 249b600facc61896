"use strict";
(() => {
  const payload = JSON.parse(document.getElementById("payload").textContent);
  const root = document.documentElement;
  const all = (query) => [...document.querySelectorAll(query)];
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  const theme = () => root.dataset.theme || (prefersDark.matches ? "dark" : "light");
  const swatches = document.head.appendChild(document.createElement("style"));
  const views = [];

  const shown = () => all(".chip input:checked").map((box) => box.value);

  async function paint() {
    const name = theme();
    swatches.textContent = payload.colours[name]
      .map((colour, index) => `.v${index}, .chip:has(.v${index}) { --c: ${colour}; }`)
      .join("\n");
    document.querySelector("#theme").textContent = name === "dark" ? "Light" : "Dark";
    views.splice(0).forEach((view) => view.finalize());
    for (const [key, spec] of Object.entries(payload.charts)) {
      const config = structuredClone(payload.config[name]);
      config.legend.disable = !spec.facet; // the chips are the legend of every other chart
      views.push(await vegaEmbed(`#chart-${key}`, structuredClone(spec), {
        actions: false, renderer: "svg", config, tooltip: { theme: name },
      }));
    }
    signal();
  }

  function signal() {
    for (const { view } of views) view.signal("shown", shown()).runAsync();
  }

  all(".chip input").forEach((box) => box.addEventListener("change", signal));
  document.querySelector("#theme").addEventListener("click", () => {
    root.dataset.theme = theme() === "dark" ? "light" : "dark";
    paint();
  });
  prefersDark.addEventListener("change", paint);
  paint();
})();
