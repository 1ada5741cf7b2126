(() => {
  // One arm alone: its marks stay, those of all others fade, in every figure and table. Escape ends it.
  const rule = document.head.appendChild(document.createElement("style"));
  const buttons = [...document.querySelectorAll("[data-isolate]")];
  let alone = null;
  const isolate = (arm) => {
    alone = arm;
    rule.textContent = arm === null ? "" :
      `[data-arm]:not([data-arm="${arm}"]) { opacity: .08; } ` +
      `svg.fig [data-arm="${arm}"] [style*="opacity: 0.3"] { opacity: 1 !important; }`;
    for (const b of buttons) b.setAttribute("aria-pressed", String(b.dataset.isolate === arm));
  };
  for (const b of buttons) b.addEventListener("click", () => isolate(alone === b.dataset.isolate ? null : b.dataset.isolate));
  document.addEventListener("keydown", (e) => { if (e.key === "Escape") isolate(null); });

  // The gallery: the size and the seed that are chosen.
  const chosen = {};
  const rows = [...document.querySelectorAll(".gallery [data-seed]")];
  const picks = [...document.querySelectorAll(".pick [data-pick]")];
  const show = () => {
    for (const r of rows) r.hidden = !["size", "seed"].every((k) => chosen[k] === "all" || chosen[k] === r.dataset[k]);
    for (const p of picks) p.setAttribute("aria-pressed", String(chosen[p.dataset.pick] === p.dataset.value));
  };
  for (const p of picks) {
    if (p.getAttribute("aria-pressed") === "true") chosen[p.dataset.pick] = p.dataset.value;
    p.addEventListener("click", () => { chosen[p.dataset.pick] = p.dataset.value; show(); });
  }

  // A link into a part that is closed opens it, and paper has all of them.
  const parts = [...document.querySelectorAll("details.part")];
  const open = () => { const at = location.hash && document.getElementById(location.hash.slice(1)); const p = at && at.closest("details"); if (p) { p.open = true; at.scrollIntoView(); } };
  addEventListener("hashchange", open);
  open();
  let closed = [];
  addEventListener("beforeprint", () => { closed = parts.filter((p) => !p.open); for (const p of closed) p.open = true; });
  addEventListener("afterprint", () => { for (const p of closed) p.open = false; });
})();
