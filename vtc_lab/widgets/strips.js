// The film strips of the explorer, drawn from what the kernel sends: frames once, then arrays.
// `home` holds for each source token the raster index of the token it went into: its own if kept, -1 if dropped.

const GAP = 4, CAPTION = 14, HEAD = 22, SMALLEST = 44, LARGEST = 170, ROOM = 340;
const HEAT = [[0, 34, 78], [53, 69, 108], [102, 105, 112], [148, 142, 119], [200, 184, 102], [254, 232, 56]]; // cividis

const numbers = (view, Kind) => new Kind(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));

function tiling(width, height, count, aspect) {
  for (let columns = 1; columns <= count; columns++) {
    const wide = Math.floor(Math.min((width + GAP) / columns - GAP, LARGEST));
    if (wide < SMALLEST) break;
    const rows = Math.ceil(count / columns), tall = Math.round(wide * aspect);
    if (rows * (tall + CAPTION + GAP) <= height) return { columns: Math.ceil(count / rows), rows, wide, tall };
  }
  const tall = Math.round(SMALLEST * aspect);
  const columns = Math.max(1, Math.floor((width + GAP) / (SMALLEST + GAP)));
  return { columns, rows: Math.max(1, Math.floor(height / (tall + CAPTION + GAP))), wide: SMALLEST, tall };
}

function render({ model, el }) {
  let clip = null, sprite = null, layers = [], page = 0, focus = null, timer = null, hover = null;
  const strips = make("div", { class: "vtc-strips" });
  const tip = make("div", { class: "vtc-tip", role: "status", "aria-live": "polite", hidden: true });
  const play = make("button", { title: "play the clip, frame by frame (space)", onclick: () => (timer ? stop() : start()) });
  const back = make("button", { title: "earlier frames", onclick: () => turn(-1) }, "‹");
  const on = make("button", { title: "later frames", onclick: () => turn(1) }, "›");
  const scrub = make("input", { type: "range", min: 0, title: "frame on show", "aria-label": "frame on show" });
  const close = make("button", { title: "back to all frames (Escape)", onclick: () => enlarge(null) }, "all frames");
  const where = make("span"), key = make("span", { class: "vtc-key" });
  const bar = make("div", { class: "vtc-bar" }, play, back, on, scrub, close, where, key);
  const main = make("div", { class: "vtc-views", tabindex: 0, role: "group" }, bar, strips, tip);
  main.setAttribute("aria-label", "pictures of the reduction; arrow keys walk over patches, Enter enlarges a frame");
  el.append(main);
  scrub.oninput = () => enlarge(Number(scrub.value));

  // ---- the clip and what became of it

  function takeClip(given) {
    clip = { ...model.get("clip"), given, colours: numbers(model.get("colours"), Uint8Array) };
    clip.ranks = {};
    for (const name of ["significance", "saliency"]) {
      const found = numbers(model.get(name), Float32Array);
      if (found.length) clip.ranks[name] = found;
    }
    [page, focus, hover] = [0, null, null];
    stop();
    const image = new Image();
    image.onload = () => { sprite = image; drawStrips(); };
    image.src = URL.createObjectURL(new Blob([model.get("sprite")], { type: "image/jpeg" }));
  }

  function take() {
    if (!model.get("drawn")) return;
    const given = ["clip", "sprite", "colours", "significance", "saliency"].map((name) => model.get(name));
    if (given.some((each, index) => each !== clip?.given[index])) takeClip(given);
    takeLayers();
  }

  function takeLayers() {
    const home = numbers(model.get("home"), Int32Array);
    const total = clip.frames * clip.rows * clip.columns, patches = clip.rows * clip.columns;
    layers = model.get("layers").map((layer, index) => {
      const mine = home.subarray(index * total, (index + 1) * total), members = new Uint32Array(total);
      const mean = new Float32Array(3 * total), hue = new Map();
      mine.forEach((to, from) => {
        if (to < 0) return;
        members[to]++;
        for (let c = 0; c < 3; c++) mean[3 * to + c] += clip.colours[3 * from + c];
      });
      members.forEach((count, to) => {
        for (let c = 0; c < 3; c++) mean[3 * to + c] /= count || 1;
        const frame = Math.floor(to / patches);
        if (count > 1 && !hue.has(frame)) hue.set(frame, hue.size);
      });
      return { ...layer, home: mine, alike: null, members, mean, hue };
    });
    if (layers.length !== strips.children.length) {
      strips.replaceChildren(...layers.map((_, index) => stripOf(index)));
      hover = null;
    }
    strips.dataset.count = layers.length;
    takeAlike();
  }

  function takeAlike() {
    const alike = numbers(model.get("alike"), Float32Array), total = alike.length / layers.length;
    layers.forEach((layer, index) => { layer.alike = total ? alike.subarray(index * total, (index + 1) * total) : null; });
    drawStrips();
  }

  function stripOf(index) {
    const base = make("canvas", { role: "img" }), top = make("canvas", { class: "vtc-top", "aria-hidden": true });
    top.onpointermove = (event) => { hover = at(index, event); light(event); };
    top.onpointerleave = () => { hover = null; light(); };
    top.onclick = (event) => {
      const place = at(index, event);
      if (place) enlarge(focus === null ? place.t : null);
    };
    return make("div", { class: "vtc-strip" }, make("div", { class: "vtc-head" }), make("div", {}, base, top));
  }

  // ---- where things are

  function shape() {
    const aspect = clip.aspect, many = layers.length || 1, width = Math.max(200, main.clientWidth - 2);
    if (focus !== null) {
      const room = Math.floor(width / many) - 8, wide = Math.floor(Math.min(room, (ROOM - HEAD - CAPTION) / aspect));
      return { columns: 1, rows: 1, wide, tall: Math.round(wide * aspect), first: focus, last: focus + 1, pages: 1 };
    }
    const tiles = tiling(width, ROOM / many - HEAD, clip.frames, aspect), each = tiles.columns * tiles.rows;
    const pages = Math.ceil(clip.frames / each);
    page = Math.min(page, pages - 1);
    return { ...tiles, first: page * each, last: Math.min(clip.frames, (page + 1) * each), pages };
  }

  function at(index, event) {
    const box = event.target.getBoundingClientRect(), s = shape();
    const x = event.clientX - box.left, y = event.clientY - box.top;
    const column = Math.floor(x / (s.wide + GAP)), row = Math.floor(y / (s.tall + CAPTION + GAP));
    const t = s.first + row * s.columns + column;
    const px = Math.floor(((x - column * (s.wide + GAP)) / s.wide) * clip.columns);
    const py = Math.floor(((y - row * (s.tall + CAPTION + GAP)) / s.tall) * clip.rows);
    const inside = t < s.last && column < s.columns && px < clip.columns && py < clip.rows;
    return inside ? { index, t, y: py, x: px } : null;
  }

  const raster = ({ t, y, x }) => (t * clip.rows + y) * clip.columns + x;

  function edges(s, frame, patch) {
    const place = frame - s.first, y = Math.floor(patch / clip.columns), x = patch % clip.columns;
    const left = (place % s.columns) * (s.wide + GAP), top = Math.floor(place / s.columns) * (s.tall + CAPTION + GAP);
    const x0 = left + Math.round((x * s.wide) / clip.columns), x1 = left + Math.round(((x + 1) * s.wide) / clip.columns);
    const y0 = top + Math.round((y * s.tall) / clip.rows), y1 = top + Math.round(((y + 1) * s.tall) / clip.rows);
    return [x0, y0, x1 - x0, y1 - y0];
  }

  function sized(canvas, s) {
    const scale = window.devicePixelRatio || 1;
    const wide = s.columns * (s.wide + GAP) - GAP, tall = Math.min(s.rows, Math.ceil((s.last - s.first) / s.columns)) * (s.tall + CAPTION + GAP);
    if (canvas.width !== Math.round(wide * scale) || canvas.height !== Math.round(tall * scale)) {
      [canvas.width, canvas.height] = [Math.round(wide * scale), Math.round(tall * scale)];
      [canvas.style.width, canvas.style.height] = [`${wide}px`, `${tall}px`];
    }
    const pen = canvas.getContext("2d");
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, wide, tall);
    return pen;
  }

  // ---- the strips

  function drawStrips() {
    if (!sprite || !layers.length) return;
    const s = shape(), view = model.get("view"), ink = getComputedStyle(main).color;
    const scale = ["significance", "saliency", "lost"].includes(view) ? heatScale(view) : null;
    strips.classList.toggle("vtc-large", focus !== null);
    layers.forEach((layer, index) => {
      const [head, box] = strips.children[index].children, pen = sized(box.children[0], s);
      const swatch = make("i", { style: `background:${layer.colour}` });
      head.replaceChildren(swatch, make("b", {}, layer.label), ` ${layer.ledger}`);
      head.title = [layer.ledger, ...layer.notes].join("; ");
      box.children[0].setAttribute("aria-label", `${layer.label}: ${layer.ledger}`);
      pen.font = "11px system-ui, sans-serif";
      for (let frame = s.first; frame < s.last; frame++) drawFrame(pen, s, layer, index, frame, view, scale, ink);
    });
    [back.hidden, on.hidden] = [s.pages < 2, s.pages < 2];
    [back.disabled, on.disabled] = [page === 0, page === s.pages - 1];
    [close.hidden, scrub.hidden] = [focus === null, focus === null];
    [scrub.max, scrub.value] = [clip.frames - 1, focus ?? 0];
    play.textContent = timer ? "❚❚ pause" : "▶ play";
    const shown = s.pages > 1 ? `frames ${s.first + 1} to ${s.last} of ${clip.frames}` : clip.frames > 1 ? `${clip.frames} frames` : "1 frame";
    where.textContent = focus === null ? shown : `frame ${focus + 1} of ${clip.frames}, ${clip.times[focus].toFixed(2)} s`;
    key.replaceChildren(...legend(view));
    light();
  }

  function legend(view) {
    const entry = (look, text) => make("span", {}, make("i", { class: look }), text);
    const heat = { significance: "significance (LFTR's)", saliency: "saliency of the encoder", lost: "lost: 1 - similarity" };
    if (heat[view]) return [entry("vtc-ramp", `${heat[view]}, low to high; hatched: dropped`)];
    if (view === "difference") return [entry("vtc-mine", "kept here only"), entry("vtc-theirs", "kept by the other only"), entry("vtc-gone", "by neither")];
    return [entry("vtc-kept", "kept"), entry(view === "averaged" ? "vtc-mean" : "vtc-tint", view === "averaged" ? "merged, averaged" : "merged into a dot of its colour"), entry("vtc-gone", "dropped")];
  }

  function heatScale(view) {
    const values = view === "lost" ? layers.flatMap((layer) => Array.from(layer.alike ?? [], (each) => 1 - each)) : Array.from(clip.ranks[view] ?? []);
    const sorted = Float32Array.from(values).sort(), part = (share) => sorted[Math.floor(share * (sorted.length - 1))] ?? 0;
    return [part(0.02), part(0.98)];
  }

  function drawFrame(pen, s, layer, index, frame, view, scale, ink) {
    const patches = clip.rows * clip.columns, [x, y] = edges(s, frame, 0), step = sprite.height / clip.frames;
    const other = layers[index ? 0 : 1]?.home;
    pen.drawImage(sprite, 0, frame * step, sprite.width, step, x, y, s.wide, s.tall);
    // One path for each ink: thousands of patches one by one would be what the slider waits for.
    const fills = new Map(), lines = new Map(), dots = new Map();
    const on = (paths, ink) => paths.get(ink) ?? paths.set(ink, new Path2D()).get(ink);
    const hatch = (ink, [left, top, wide, tall]) => {
      on(lines, ink).moveTo(left, top + tall);
      on(lines, ink).lineTo(left + wide, top);
    };
    let kept = 0;
    for (let patch = 0; patch < patches; patch++) {
      const from = frame * patches + patch, to = layer.home[from], box = edges(s, frame, patch), own = to === from;
      const theirs = view === "difference" && other ? other[from] === from : null;
      kept += own;
      if (scale) {
        const value = view === "lost" ? 1 - (layer.alike?.[from] ?? 1) : clip.ranks[view]?.[from] ?? 0;
        on(fills, heat((value - scale[0]) / (scale[1] - scale[0] || 1))).rect(...box);
        if (to < 0) hatch("rgba(0,0,0,0.55)", box);
      } else if (theirs !== null && (own || theirs)) {
        if (own && !theirs) on(fills, "rgba(0,114,178,0.55)").rect(...box);
        if (!own) {
          on(fills, "rgba(230,159,0,0.6)").rect(...box);
          hatch("rgba(0,0,0,0.5)", box);
        }
      } else if (to < 0 || theirs !== null) {
        on(fills, "rgba(25,25,25,0.82)").rect(...box);
        hatch("rgba(255,255,255,0.28)", box);
      } else if (layer.members[to] > 1) {
        const hue = clip.hues[layer.hue.get(Math.floor(to / patches)) % clip.hues.length];
        if (view === "averaged") on(fills, `rgb(${layer.mean.slice(3 * to, 3 * to + 3).join()})`).rect(...box);
        else if (!own) on(fills, shaded(hue)).rect(...box);
        if (own) {
          const [left, top, wide, tall] = box, size = Math.max(1.2, Math.min(wide, tall) / 4);
          on(dots, hue).moveTo(left + wide / 2 + size, top + tall / 2);
          on(dots, hue).arc(left + wide / 2, top + tall / 2, size, 0, 7);
        }
      }
    }
    [pen.lineWidth, pen.strokeStyle] = [0.8, "black"];
    for (const [colour, path] of fills) { pen.fillStyle = colour; pen.fill(path); }
    for (const [hue, path] of dots) { pen.fillStyle = hue; pen.fill(path); pen.stroke(path); }
    for (const [colour, path] of lines) { pen.strokeStyle = colour; pen.stroke(path); }
    pen.fillStyle = ink;
    const words = `${clip.times[frame].toFixed(2)} s  ${kept}`, fits = pen.measureText(words).width <= s.wide;
    pen.fillText(fits ? words : `${kept}`, x, y + s.tall + 11);
  }

  function heat(share) {
    const place = Math.round(Math.max(0, Math.min(0.999, share)) * 40) / 40 * (HEAT.length - 1);
    const low = HEAT[Math.floor(place)], high = HEAT[Math.min(HEAT.length - 1, Math.floor(place) + 1)];
    return `rgba(${low.map((each, c) => each + (place % 1) * (high[c] - each)).join()},0.8)`;
  }

  const shaded = (hue) => `rgba(${[1, 3, 5].map((at) => 0.74 * parseInt(hue.slice(at, at + 2), 16)).join()},0.72)`;

  // ---- a patch under the mouse, or where the arrow keys went

  function explain({ index, t, y, x }) {
    const layer = layers[index], from = raster({ t, y, x }), to = layer.home[from], patches = clip.rows * clip.columns;
    const place = (token) => `frame ${Math.floor(token / patches) + 1}, row ${Math.floor((token % patches) / clip.columns) + 1}, column ${(token % clip.columns) + 1}`;
    let fate = "dropped";
    if (to === from) fate = layer.members[to] > 1 ? `kept, with ${layer.members[to] - 1} merged into it` : "kept";
    else if (to >= 0) fate = `merged into ${place(to)}, a token of ${layer.members[to]}`;
    const facts = Object.entries(clip.ranks).map(([name, values]) => `${name} ${shortest(values[from])}`);
    return [`${place(from)} (${clip.times[t].toFixed(2)} s)`, `${layer.label}: ${fate}`, [...facts, ...(layer.alike ? [`similarity to what stands for it ${layer.alike[from].toFixed(3)}`] : [])].join(" · ")];
  }

  function light(event) {
    const s = shape(), patches = clip.rows * clip.columns;
    layers.forEach((layer, index) => {
      const pen = sized(strips.children[index].children[1].children[1], s);
      if (!hover) return;
      const from = raster(hover), to = layer.home[from];
      const outline = (token, ink, width) => {
        const frame = Math.floor(token / patches);
        if (frame < s.first || frame >= s.last) return;
        const [x, y, wide, tall] = edges(s, frame, token % patches);
        [pen.strokeStyle, pen.lineWidth] = [ink, width];
        pen.strokeRect(x + 0.5, y + 0.5, wide - 1, tall - 1);
      };
      if (to >= 0) layer.home.forEach((each, token) => { if (each === to) { outline(token, "black", 3); outline(token, "#ffe600", 1.5); } });
      outline(from, "black", 4);
      outline(from, "white", 2);
    });
    tip.hidden = !hover;
    if (!hover) return;
    tip.replaceChildren(...explain(hover).map((line) => make("div", {}, line)));
    const [x, y, , tall] = edges(s, hover.t, raster(hover) % patches);
    const canvas = strips.children[hover.index].children[1].getBoundingClientRect(), home = main.getBoundingClientRect();
    tip.style.left = `${Math.max(0, Math.min(canvas.left - home.left + x + 12, home.width - tip.offsetWidth - 4))}px`;
    tip.style.top = `${canvas.top - home.top + y + tall + 8}px`;
  }

  main.onkeydown = (event) => {
    if (event.target !== main || !layers.length) return;
    const steps = { ArrowLeft: [0, 0, -1], ArrowRight: [0, 0, 1], ArrowUp: [0, -1, 0], ArrowDown: [0, 1, 0], PageUp: [-1, 0, 0], PageDown: [1, 0, 0] };
    if (steps[event.key]) {
      const [t, y, x] = steps[event.key], old = hover ?? { index: 0, t: focus ?? shape().first, y: 0, x: 0 };
      const within = (value, count) => Math.max(0, Math.min(count - 1, value));
      hover = { index: old.index, t: within(old.t + t, clip.frames), y: within(old.y + y, clip.rows), x: within(old.x + x, clip.columns) };
      if (focus !== null) enlarge(hover.t);
      else if (hover.t < shape().first) turn(-1);
      else if (hover.t >= shape().last) turn(1);
      light();
    } else if (event.key === "Enter") enlarge(focus === null ? hover?.t ?? 0 : null);
    else if (event.key === "Escape") { hover = null; stop(); enlarge(null); }
    else if (event.key === " ") timer ? stop() : start();
    else return;
    event.preventDefault();
    event.stopPropagation();
  };

  function enlarge(frame) {
    focus = frame;
    if (frame === null) stop();
    drawStrips();
  }

  function turn(by) { page += by; drawStrips(); }

  function start() {
    const gap = clip.frames > 1 ? (1000 * (clip.times.at(-1) - clip.times[0])) / (clip.frames - 1) : 500;
    timer = setInterval(() => enlarge((focus + 1) % clip.frames), Math.max(100, Math.min(gap, 500)));
    enlarge(focus ?? 0);
  }

  function stop() {
    clearInterval(timer);
    timer = null;
    play.textContent = "▶ play";
  }

  const dim = () => main.classList.toggle("vtc-stale", model.get("stale"));
  const listen = { "change:drawn": take, "change:alike": takeAlike, "change:view": drawStrips, "change:stale": dim };
  for (const [event, handler] of Object.entries(listen)) model.on(event, handler);
  [take, dim].forEach((draw) => draw());
  let width = 0;
  const resized = new ResizeObserver(() => { if (main.clientWidth !== width) { width = main.clientWidth; drawStrips(); } });
  resized.observe(main);
  return () => {
    stop();
    resized.disconnect();
    for (const [event, handler] of Object.entries(listen)) model.off(event, handler);
  };
}

export default { render };
