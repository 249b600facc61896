"use strict"; // of pages with charts, chips that switch variants, and a theme
(() => {
  const payload = JSON.parse(document.getElementById("payload").textContent);
  const root = document.documentElement;
  const all = (query) => [...document.querySelectorAll(query)];
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  const theme = () => root.dataset.theme || (prefersDark.matches ? "dark" : "light");
  const chips = all(".chip input"); // a page without them has a legend in every chart
  const views = [];

  // The charts' colours are the style sheet's: a theme changes no chart.
  function name() {
    document.querySelector("#theme").textContent = theme() === "dark" ? "Light" : "Dark";
  }

  async function draw() {
    for (const [key, spec] of Object.entries(payload.charts)) {
      const config = structuredClone(payload.config);
      config.legend.disable = chips.length > 0 && !spec.facet; // the chips are the legend
      views.push((await vegaEmbed(`#chart-${key}`, spec, { actions: false, renderer: "svg", config })).view);
    }
    signal();
  }

  function signal() {
    if (!chips.length) return;
    const shown = chips.filter((box) => box.checked).map((box) => box.value);
    for (const view of views) view.signal("shown", shown).runAsync();
  }

  chips.forEach((box) => box.addEventListener("change", signal));
  document.querySelector("#theme").addEventListener("click", () => {
    root.dataset.theme = theme() === "dark" ? "light" : "dark";
    name();
  });
  prefersDark.addEventListener("change", name);
  name();
  draw();
})();
