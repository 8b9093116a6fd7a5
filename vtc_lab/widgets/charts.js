// The charts of the explorer: the curve, which sets the ratio, the tokens of each frame, the answer, the exported figure.

const SHAPES = ["M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0", "M-4,-4h8v8h-8z", "M0,-5l5,9h-10z", "M0,-5l5,5l-5,5l-5,-5z"];
const DASHES = ["", "6 3", "2 2", "8 3 2 3"];

function render({ model, el }) {
  const curve = make("section", { class: "vtc-curve" }), bars = make("section", { class: "vtc-bars" });
  const answer = make("section", { class: "vtc-answer", "aria-live": "polite" }), out = make("div", { class: "vtc-out" });
  const main = make("div", { class: "vtc-views" }, make("div", { class: "vtc-band" }, curve, bars, answer), out);
  el.append(main);

  // ---- the curve, which sets the ratio

  function drawCurve() {
    const data = model.get("curve"), wide = 330, tall = 150, left = 38, low = tall - 26, highest = Math.log2(data.most || 64);
    if (!data.lines) return curve.replaceChildren();
    const across = wide - left - 18, px = (ratio) => left + (Math.log2(ratio) / highest) * across;
    const points = data.lines.flatMap((line) => line.points.map(([, value]) => value)).filter(Number.isFinite);
    const top = Math.max(...points, data.best ?? -Infinity), bottom = Math.min(...points), span = top - bottom || 1;
    const py = (value) => low - ((value - bottom) / span) * (low - 10);
    const svg = make("svg", { viewBox: `0 0 ${wide} ${tall}`, tabindex: 0, role: "slider", "aria-label": `compression ratio on the curve of ${data.label}` });
    svg.setAttribute("aria-valuenow", data.ratio);
    svg.setAttribute("aria-valuemin", 1);
    svg.setAttribute("aria-valuemax", data.most);
    for (let ratio = 1; ratio <= data.most; ratio *= 2) {
      svg.append(make("line", { x1: px(ratio), x2: px(ratio), y1: 6, y2: low, class: "vtc-grid" }));
      svg.append(make("text", { x: px(ratio), y: low + 12, "text-anchor": "middle" }, `${Number((100 / ratio).toPrecision(3))}%`));
    }
    svg.append(make("text", { x: (left + wide) / 2, y: tall - 2, "text-anchor": "middle" }, "retained ratio"));
    if (points.length) for (const value of [bottom, top]) svg.append(make("text", { x: left - 4, y: py(value) + 1, "text-anchor": "end" }, shortest(value)));
    data.lines.forEach((line, index) => {
      const path = line.points.map(([ratio, value], n) => `${n ? "L" : "M"}${px(ratio)},${py(value)}`).join("");
      svg.append(make("path", { d: path, fill: "none", stroke: line.colour, "stroke-width": 2, "stroke-dasharray": DASHES[index] }));
      if (line.flip) svg.append(make("path", { d: "M-4,-6L4,6M-4,6L4,-6", transform: `translate(${px(line.flip)},${low - 8 - 10 * index})`, stroke: line.colour, "stroke-width": 2 }));
      const now = line.now;
      if (now) svg.append(make("path", { d: SHAPES[index], transform: `translate(${px(now[0])},${py(now[1])})`, fill: line.colour, class: "vtc-now" }));
    });
    svg.append(make("line", { x1: px(data.ratio), x2: px(data.ratio), y1: 4, y2: low, class: "vtc-here" }));
    const choose = (ratio) => model.send({ ratio: Math.round(100 * Math.max(1, Math.min(data.most, ratio))) / 100 });
    const pick = (event) => {
      const box = svg.getBoundingClientRect(), x = ((event.clientX - box.left) / box.width) * wide;
      choose(2 ** (((x - left) / across) * highest));
    };
    svg.onpointerdown = (event) => { curve.dataset.drag = 1; pick(event); };
    svg.onkeydown = (event) => {
      const by = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
      if (by) { choose(data.ratio * 2 ** (by / 8)); event.preventDefault(); event.stopPropagation(); }
    };
    curve.onpointermove = (event) => { if (curve.dataset.drag && event.buttons) pick(event); };
    curve.onpointerup = () => delete curve.dataset.drag;
    const names = data.lines.map((line, index) => make("span", {}, mark(line.colour, index), line.label, line.now ? ` ${line.now[1].toFixed(3)}` : ""));
    const again = document.activeElement?.closest?.(".vtc-curve") === curve;
    curve.replaceChildren(make("h4", { title: "click or drag on it to set the ratio" }, data.label), svg, make("div", { class: "vtc-names" }, ...names));
    if (again) svg.focus();
  }

  const mark = (colour, index) => make("svg", { viewBox: "-12 -6 24 12", width: 24, height: 12 }, make("line", { x1: -12, x2: 12, y1: 0, y2: 0, stroke: colour, "stroke-width": 2, "stroke-dasharray": DASHES[index] }), make("path", { d: SHAPES[index], fill: colour }));

  function drawBars() {
    const wide = 240, tall = 150, low = tall - 26, left = 28, layers = model.get("layers"), counts = layers.map((layer) => layer.per_frame), frames = counts[0]?.length ?? 0;
    if (!frames) return bars.replaceChildren();
    const most = Math.max(1, ...counts.flat()), each = (wide - left) / frames, one = (0.8 * each) / layers.length;
    const svg = make("svg", { viewBox: `0 0 ${wide} ${tall}`, role: "img", "aria-label": "tokens kept of each frame" });
    counts.forEach((row, index) => row.forEach((count, frame) => {
      const high = (count / most) * (low - 10);
      svg.append(make("rect", { x: left + frame * each + index * one, y: low - high, width: one, height: high, fill: layers[index].colour }, make("title", {}, `${layers[index].label}: ${count} of frame ${frame + 1}`)));
    }));
    svg.append(make("line", { x1: left, x2: wide, y1: low, y2: low, class: "vtc-grid" }), make("text", { x: left - 4, y: 14, "text-anchor": "end" }, `${most}`));
    svg.append(make("text", { x: left, y: low + 12 }, "1"), make("text", { x: wide, y: low + 12, "text-anchor": "end" }, `frame ${frames}`));
    const totals = [...new Set(layers.map((layer) => layer.tokens))];
    bars.replaceChildren(make("h4", {}, `tokens per frame, ${totals.join(" and ")}${layers.length > 1 && totals.length === 1 ? " each" : ""}`), svg);
  }

  // ---- the answer and the exported figure

  function drawAnswer() {
    const data = model.get("answer");
    answer.hidden = !data.question;
    if (answer.hidden) return answer.replaceChildren();
    const rows = (data.rows ?? []).map((row) => {
      const right = data.right === null || row.text === "" ? "" : row.text === data.right ? " ✓" : " ✗";
      const bars = row.scores.map(([text, share]) => make("div", { class: "vtc-share", title: `${text}: ${share.toFixed(3)}` }, make("i", { style: `width:${Math.round(60 * share)}px;background:${row.colour}` }), `${text} ${share.toFixed(2)}${text === data.right ? " ←" : ""}`));
      const cells = [make("b", {}, `${row.text}${right}`), make("small", {}, `${row.label}, ${row.entered} tokens${row.mean === null ? "" : ` (mean of layers ${Math.round(row.mean)})`}${row.kl === null ? "" : `, KL ${shortest(row.kl)}`}`)];
      return make("div", { class: "vtc-row" }, make("div", {}, ...cells), make("div", {}, ...bars));
    });
    const notes = (data.notes ?? []).map((note) => make("div", { class: "vtc-note" }, note));
    const right = data.right === null ? [] : [make("div", { class: "vtc-note" }, "right answer: ", make("b", {}, data.right))];
    answer.replaceChildren(make("h4", {}, data.question), ...rows, ...right, ...notes);
  }

  function drawOut() {
    const data = model.get("exported"), config = document.getElementById("jupyter-config-data");
    if (!data.files) return out.replaceChildren();
    const base = config ? JSON.parse(config.textContent).baseUrl ?? "/" : null;
    const links = data.files.map(([suffix, path]) => base === null ? make("code", {}, path) : make("a", { href: `${base}files/${path.split("/").map(encodeURIComponent).join("/")}`, target: "_blank", title: path }, suffix));
    const text = make("div", {}, `wrote ${data.name} (${data.state}): `, ...links.flatMap((link) => [link, " "]), make("pre", {}, data.latex));
    out.replaceChildren(make("img", { src: data.thumbnail, alt: `the exported figure ${data.name}` }), text);
  }

  const dim = () => main.classList.toggle("vtc-stale", model.get("stale"));
  const listen = { "change:layers": drawBars, "change:curve": drawCurve, "change:answer": drawAnswer };
  Object.assign(listen, { "change:exported": drawOut, "change:stale": dim });
  for (const [event, handler] of Object.entries(listen)) model.on(event, handler);
  Object.values(listen).forEach((draw) => draw());
  model.send({ shown: true }); // the comm is on its subshell from the first message on, so that a busy cell delays none
  return () => Object.entries(listen).forEach(([event, handler]) => model.off(event, handler));
}

export default { render };
