// What overflows can be scrolled with the keyboard: it takes the focus, and only while it overflows. Loaded after the formulas are set.
(() => {
  "use strict";
  const boxes = () => document.querySelectorAll("pre, .katex-display, main table, .sd-table, #quarto-sidebar, #quarto-margin-sidebar");
  const over = (e) => {
    const s = getComputedStyle(e);
    return (e.scrollWidth > e.clientWidth && /auto|scroll/.test(s.overflowX)) || (e.scrollHeight > e.clientHeight && /auto|scroll/.test(s.overflowY));
  };
  const mark = () => boxes().forEach((e) => {
    if (e.querySelector("a[href], button")) return;             // what holds a link is reached through it
    if (over(e)) e.tabIndex = 0; else if (e.tabIndex === 0) e.removeAttribute("tabindex");
  });
  let queued = false;
  const soon = () => { if (!queued) { queued = true; requestAnimationFrame(() => { queued = false; mark(); }); } };
  mark();
  window.addEventListener("load", soon);
  window.addEventListener("resize", soon);
  if (document.fonts) document.fonts.ready.then(soon);
})();
