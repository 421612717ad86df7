"use strict";
// What a page shows, measured in the page itself. `judge` has a function per criterion; each returns a number or the list of offenders.
globalThis.judge = (() => {
  const scrolls = (value) => value === "auto" || value === "scroll";

  // A short way to find an element again: tag, id or class, and the start of its text.
  function name(element) {
    const own = element.id ? `#${element.id}` : element.classList.length ? `.${element.classList[0]}` : "";
    const text = element.textContent.trim().replace(/\s+/g, " ").slice(0, 40);
    return `<${element.localName}${own}> ${text}`.trim();
  }

  // Elements that readers see, folded ones and those for screen readers only (clipped to a pixel) left out; parents come first.
  function* shown(element = document.body) {
    if (!element.checkVisibility({ visibilityProperty: true, opacityProperty: true })) {
      // display: contents has no box, visibility can be set back by a child.
      for (const child of getComputedStyle(element).display === "none" ? [] : element.children) yield* shown(child);
      return;
    }
    const box = element.getBoundingClientRect();
    const clipped = box.width <= 1 && box.height <= 1 && getComputedStyle(element).overflowX !== "visible";
    if (clipped || box.right <= 0 || ["script", "style", "template", "defs", "symbol", "title"].includes(element.localName)) return;
    yield element;
    for (const child of element.children) yield* shown(child);
  }

  function* texts() {
    for (const element of shown()) {
      for (const node of element.childNodes) {
        const folded = element.localName === "details" && !element.open;
        if (node.nodeType === Node.TEXT_NODE && node.data.trim() && !folded) yield [element, node.data];
      }
    }
  }

  const screens = () => document.documentElement.scrollHeight / innerHeight;
  const words = () => Array.from(texts()).reduce((sum, [, text]) => sum + text.trim().split(/\s+/).length, 0);
  const nodes = () => document.getElementsByTagName("*").length;

  // Pixels by which the document is wider than the window, and each nav wider than it shows.
  function sideways() {
    const root = document.documentElement;
    const found = Math.max(root.scrollWidth, document.body.scrollWidth) - root.clientWidth;
    const wide = found > 1 ? [`document by ${found} px`] : [];
    for (const nav of document.querySelectorAll("nav, nav *")) {
      const by = nav.scrollWidth - nav.clientWidth;
      if (nav.clientWidth && by > 1 && nav.checkVisibility()) wide.push(`${name(nav)} by ${by} px`);
    }
    return wide;
  }

  // Elements whose content sticks out or is cut; one that scrolls may have more than it shows. Only the innermost are named.
  function overflowing() {
    const found = new Set();
    for (const element of shown()) {
      const svg = element.ownerSVGElement;
      if (svg && element.localName === "text") {
        const [box, frame] = [element.getBoundingClientRect(), outermost(svg).getBoundingClientRect()];
        const out = Math.max(frame.left - box.left, box.right - frame.right, frame.top - box.top, box.bottom - frame.bottom);
        if (out > 1) found.add(element);
      } else if (!svg && element.clientWidth && element.scrollWidth > element.clientWidth + 1 && !scrolls(getComputedStyle(element).overflowX)) {
        for (let parent = element.parentElement; parent; parent = parent.parentElement) found.delete(parent);
        found.add(element);
      }
    }
    return Array.from(found, name);
  }

  const outermost = (svg) => (svg.ownerSVGElement ? outermost(svg.ownerSVGElement) : svg);

  // Visible text smaller than `least` pixels as it appears: the scale of an SVG counts.
  function small(least) {
    const found = [];
    for (const [element] of texts()) {
      const matrix = element.ownerSVGElement ? element.getScreenCTM() : null;
      const scale = matrix ? Math.sqrt(Math.abs(matrix.a * matrix.d - matrix.b * matrix.c)) : 1;
      const size = parseFloat(getComputedStyle(element).fontSize) * scale;
      if (size < least - 0.01) found.push(`${size.toFixed(1)} px: ${name(element)}`);
    }
    return found;
  }

  // Text in drawings whose contrast with the ground is below `least`; axe does not know `fill`. Text on marks is not judged.
  function faint(least) {
    const found = [];
    for (const [element] of texts()) {
      if (!element.ownerSVGElement) continue;
      const style = getComputedStyle(element);
      const ink = colour(style.fill);
      const alpha = ink[3] * style.fillOpacity * style.opacity;
      const ground = colour(ground_of(element));
      const [light, dark] = [luminance(ink.map((part, index) => part * alpha + ground[index] * (1 - alpha))), luminance(ground)].sort((a, b) => b - a);
      const contrast = (light + 0.05) / (dark + 0.05);
      if (contrast < least - 0.005) found.push(`${contrast.toFixed(2)}: ${name(element)}`);
    }
    return found;
  }

  function ground_of(element) {
    for (let parent = element; parent; parent = parent.parentElement) {
      const value = getComputedStyle(parent).backgroundColor;
      if (colour(value)[3] === 1) return value;
    }
    return matchMedia("(prefers-color-scheme: dark)").matches && getComputedStyle(document.documentElement).colorScheme.includes("dark") ? "#121212" : "#fff";
  }

  // Any CSS colour as red, green, blue and alpha from 0 to 1: a canvas knows them all.
  const pixel = Object.assign(document.createElement("canvas"), { width: 1, height: 1 }).getContext("2d", { willReadFrequently: true });
  const known = new Map();
  function colour(value) {
    if (!known.has(value)) {
      pixel.clearRect(0, 0, 1, 1);
      pixel.fillStyle = value;
      pixel.fillRect(0, 0, 1, 1);
      known.set(value, Array.from(pixel.getImageData(0, 0, 1, 1).data, (part) => part / 255));
    }
    return known.get(value);
  }

  // WCAG 2.2, relative luminance.
  function luminance(rgb) {
    const [red, green, blue] = rgb.slice(0, 3).map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  }

  // Drawings without marks: only text, ticks, rules and a frame. Icons are no drawings.
  function empty() {
    return Array.from(document.querySelectorAll("svg")).filter((svg) => {
      const frame = svg.getBoundingClientRect();
      if (svg.ownerSVGElement || frame.width < 40 || frame.height < 40 || !svg.checkVisibility()) return false;
      return !Array.from(svg.querySelectorAll("path, circle, ellipse, rect, use, polyline, polygon")).some((shape) => {
        const box = shape.getBoundingClientRect();
        const flat = Math.min(box.width, box.height) < 2;
        const whole = shape.localName !== "use" && box.width > 0.75 * frame.width && box.height > 0.75 * frame.height;
        return !shape.closest("defs, symbol, clipPath") && !flat && !(whole && outlines(shape));
      });
    }).map((svg) => svg.getAttribute("aria-label") || name(svg));
  }

  // Whether a shape runs along the edges of its own box alone, as axes and frames do and a curve does not.
  function outlines(shape) {
    const [box, length] = [shape.getBBox(), shape.getTotalLength?.() ?? 0];
    const near = (value, start, size) => Math.min(Math.abs(value - start), Math.abs(value - start - size)) < size / 50;
    return Array.from({ length: 25 }, (_, index) => shape.getPointAtLength((length * index) / 24)).every(
      (point) => near(point.x, box.x, box.width) || near(point.y, box.y, box.height),
    );
  }

  // Headers that a reader loses: of a nav or table that sticks but moves, and of a table taller than the window that does not stick.
  function lost() {
    const before = [scrollX, scrollY];
    const found = [];
    for (const element of shown()) {
      const style = getComputedStyle(element);
      const table = element.localName === "thead" ? element.closest("table") : null;
      const tall = table && table.getBoundingClientRect().height > innerHeight;
      const sticks = style.position === "sticky" && style.top !== "auto";
      if (!sticks && !tall) continue;
      const around = element.closest("table") || element.parentElement;
      const height = element.getBoundingClientRect().height;
      if (around.getBoundingClientRect().height < 3 * height) continue;
      const own = scroller(element);
      if (own) own.scrollTop = own.scrollHeight / 2;
      const view = own ? own.getBoundingClientRect().top + own.clientTop : 0;
      const box = around.getBoundingClientRect();
      if (!own) scrollTo({ top: scrollY + box.top + Math.min(box.height / 2, box.height - 2 * height), behavior: "instant" });
      // Of a table that does not stick itself, a row or its cells may.
      const cell = element.localName === "thead" ? element.rows[0].cells[0] : element;
      const top = cell.getBoundingClientRect().top - view;
      const wanted = parseFloat(sticks ? style.top : getComputedStyle(cell).top) || 0;
      // A table may end before the page can be scrolled so far.
      const bottom = scrollY >= document.documentElement.scrollHeight - innerHeight - 1;
      if (top < -1 || (top > wanted + 1.5 && !bottom)) found.push(`${name(element)} at ${Math.round(top)} px`);
      if (own) own.scrollTop = 0;
    }
    scrollTo({ left: before[0], top: before[1], behavior: "instant" });
    return found;
  }

  // The nearest ancestor that does scroll up and down, other than the page.
  function scroller(element) {
    for (let parent = element.parentElement; parent && parent !== document.body; parent = parent.parentElement) {
      if (scrolls(getComputedStyle(parent).overflowY) && parent.scrollHeight > parent.clientHeight + 1) return parent;
    }
    return null;
  }

  // What the keyboard should reach, by Tab or, in a drawing whose marks share one stop, by arrow keys.
  const MARKS = "svg [tabindex], svg a[href], [role=img] [tabindex]";
  const CONTROLS = `a[href], button:enabled, input:enabled, select:enabled, summary, [tabindex]:not([tabindex="-1"]), ${MARKS}`;
  const seen = new Set();
  document.addEventListener("focusin", (event) => seen.add(event.target));
  const controls = () => Array.from(shown()).filter((element) => element.matches(CONTROLS));
  const unseen = () => controls().filter((element) => !seen.has(element)).map(name);
  // Drawings with marks that Tab skips: `enter` puts the focus on the one that has a stop, and returns how many more there are.
  const drawings = () => Array.from(document.querySelectorAll("svg, [role=img], [role=group]")).filter((one) => one.querySelector('[tabindex="-1"]'));
  const groups = () => drawings().length;
  function enter(index) {
    const drawing = drawings()[index];
    const stop = drawing.matches('[tabindex="0"]') ? drawing : drawing.querySelector('[tabindex="0"]');
    stop?.focus();
    return stop ? drawing.querySelectorAll('[tabindex="-1"]').length : 0;
  }

  return { screens, words, nodes, sideways, overflowing, small, empty, lost, controls: () => controls().length, unseen, groups, enter, faint };
})();
