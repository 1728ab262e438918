// page.js: draws the page of plot.py --html from the data that it holds. No library, nothing from a network.
//
// One range of steps for all panels (drag to choose it, double click for all of them), one crosshair; what the reader has chosen
// outlives the page's reloads. Names come from outside: they go into the page as text, never as markup.
"use strict";
(() => {
const DATA = JSON.parse(document.getElementById("data").textContent);
const LIGHT = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];  // Okabe and Ito's: told apart by all eyes
const DARK = ["#56b4e9", "#ff8a3d", "#2fc79b", "#e796c3", "#f2c14e", "#a9c8ff", "#ffffff"];
const DASHES = [[], [7, 3], [2, 3], [8, 3, 2, 3]];
const VIRIDIS = ["440154", "482475", "414487", "355f8d", "2a788e", "21918c", "22a884", "44bf70", "7ad151", "bddf26", "fde725"]
    .map(hex => [0, 2, 4].map(at => parseInt(hex.slice(at, at + 2), 16)));
const LACKING = "#9a9a9a", BEYOND = "#d55e00";  // no number; over the scale
const PANELS = [
    {key: "loss", title: "loss", unit: "nats per token", large: true, val: true, ratio: 3},
    {key: "lr", title: "learning rate", unit: "", ratio: 10, plain: true},
    {key: "grad_norm", title: "gradient norm", unit: "", ratio: 10},
    {key: "tokens_per_s", title: "throughput", unit: "tokens a second", ratio: Infinity, zero: true},
];
const MARGIN = {left: 58, right: 12, top: 10, bottom: 24};

// ------------------------------------------------------------------------------------------------- what outlives a reload

const KEY = "train_gpt " + location.pathname;
const state = {zoom: null, hidden: [], log: {}, smooth: 2, paused: false, scroll: 0, open: false};
try { Object.assign(state, JSON.parse(sessionStorage.getItem(KEY)) || {}); } catch { /* a browser without: begins anew */ }
function keep() {
    state.scroll = window.scrollY;
    try { sessionStorage.setItem(KEY, JSON.stringify(state)); } catch { /* the same */ }
}
window.addEventListener("pagehide", keep);
function reloadLater() {
    if (!DATA.every) return;
    setTimeout(() => state.paused || pressed ? reloadLater() : (keep(), location.reload()), DATA.every * 1000);
}

// ------------------------------------------------------------------------------------------------------------------ small

const isDark = () => matchMedia("(prefers-color-scheme: dark)").matches;
const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const colorOf = i => (isDark() ? DARK : LIGHT)[i % LIGHT.length];
const dashOf = i => DASHES[Math.floor(i / LIGHT.length) % DASHES.length];
const visible = () => DATA.runs.map((run, i) => ({run, i})).filter(({run}) => !state.hidden.includes(run.name));
const finite = values => values.filter(value => value !== null && Number.isFinite(value));

function make(tag, options = {}, ...children) {
    const {text, ...rest} = options, element = Object.assign(document.createElement(tag), rest);
    if (text !== undefined) element.textContent = text;
    element.append(...children);
    return element;
}

function number(value, digits = 4) {
    if (value === null || value === undefined) return "–";
    if (Number.isInteger(value) && Math.abs(value) < 1e15) return value.toLocaleString("en");
    const size = Math.abs(value);
    return size && (size < 1e-3 || size >= 1e6) ? value.toExponential(digits - 2) : String(+value.toPrecision(digits));
}

function short(value) {  // for an axis
    const size = Math.abs(value);
    if (size >= 1e9) return +(value / 1e9).toPrecision(4) + "G";
    if (size >= 1e6) return +(value / 1e6).toPrecision(4) + "M";
    if (size >= 1e4) return +(value / 1e3).toPrecision(4) + "k";
    return size && size < 1e-3 ? value.toExponential().replace(/(\.\d\d)\d+/, "$1") : String(+value.toPrecision(6));
}

function linearTicks(low, high, count) {
    const raw = (high - low) / count || 1, ten = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map(x => x * ten).find(x => x >= raw * 0.999), ticks = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) ticks.push(i * step);
    return ticks;
}

function logTicks(low, high) {
    let ticks = [];
    for (const steps of [[1], [1, 3], [1, 2, 5], [1, 1.5, 2, 3, 5, 7], [1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9]]) {
        ticks = [];
        for (let d = Math.floor(Math.log10(low)); d <= Math.ceil(Math.log10(high)); d++)
            for (const s of steps) if (s * 10 ** d >= low && s * 10 ** d <= high) ticks.push(+(s * 10 ** d).toPrecision(3));
        if (ticks.length >= 5) break;
    }
    const every = Math.max(1, Math.floor(ticks.length / 7));
    return ticks.filter((_, i) => i % every === 0);
}

// The mean over `window` points around each; at the beginning over fewer, never lopsided.
function smoothed(values, window) {
    const sums = [0], counts = [0], half = Math.floor(window / 2);
    values.forEach((value, i) => { sums.push(sums[i] + (value ?? 0)); counts.push(counts[i] + (value === null ? 0 : 1)); });
    return values.map((value, i) => {
        const reach = Math.min(half, i), from = i - reach, to = Math.min(values.length, i + reach + 1);
        return value === null || counts[to] === counts[from] ? null : (sums[to] - sums[from]) / (counts[to] - counts[from]);
    });
}

function nearest(xs, x) {  // the index of the point that is nearest to x
    let low = 0, high = xs.length - 1;
    while (high - low > 1) {
        const middle = (low + high) >> 1;
        if (xs[middle] <= x) low = middle; else high = middle;
    }
    return high >= 0 && Math.abs(xs[high] - x) < Math.abs(xs[low] - x) ? high : low;
}

// ---------------------------------------------------------------------------------------------------------------- scales

function stepsShown() {
    if (state.zoom) return state.zoom;
    let low = Infinity, high = -Infinity;
    for (const {run} of visible())
        for (const xs of [run.series.loss?.x ?? [], run.val.x, ...Object.values(run.maps).map(map => map.x)])
            if (xs.length) { low = Math.min(low, xs[0]); high = Math.max(high, xs[xs.length - 1]); }
    if (low > high) return [0, 1];
    return low === high ? [low - 1, high + 1] : [low, high];
}

function canvasOf(stage, which) {
    const canvas = stage.children[which], ratio = window.devicePixelRatio || 1;
    const width = stage.clientWidth, height = stage.clientHeight;
    if (canvas.width !== Math.round(width * ratio)) canvas.width = Math.round(width * ratio);
    if (canvas.height !== Math.round(height * ratio)) canvas.height = Math.round(height * ratio);
    const pen = canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.font = "11px system-ui, sans-serif";
    return {pen, width, height};
}

function axesOf(width, height, [x0, x1], low, high, log) {
    const w = width - MARGIN.left - MARGIN.right, h = height - MARGIN.top - MARGIN.bottom, f = log ? Math.log : v => v;
    return {
        x: step => MARGIN.left + w * (step - x0) / (x1 - x0 || 1),
        y: value => MARGIN.top + h * (1 - (f(value) - f(low)) / (f(high) - f(low) || 1)),
        step: px => x0 + (x1 - x0) * (px - MARGIN.left) / w, w, h, low, high, log, x0, x1,
    };
}

function drawFrame(pen, axes, yTicks, format) {
    pen.lineWidth = 1;
    pen.fillStyle = css("--faint");
    pen.strokeStyle = css("--grid");
    pen.textBaseline = "middle";
    pen.textAlign = "right";
    for (const tick of yTicks) {
        const y = Math.round(axes.y(tick)) + 0.5;
        pen.beginPath(); pen.moveTo(MARGIN.left, y); pen.lineTo(MARGIN.left + axes.w, y); pen.stroke();
        pen.fillText(format(tick), MARGIN.left - 7, y);
    }
    drawSteps(pen, axes, true);
}

function drawSteps(pen, axes, grid) {
    pen.textBaseline = "top";
    pen.textAlign = "center";
    pen.fillStyle = css("--faint");
    for (const tick of linearTicks(axes.x0, axes.x1, Math.max(4, Math.floor(axes.w / 80)))) {
        if (!Number.isInteger(tick)) continue;
        const x = Math.round(axes.x(tick)) + 0.5;
        if (grid) { pen.beginPath(); pen.moveTo(x, MARGIN.top); pen.lineTo(x, MARGIN.top + axes.h); pen.stroke(); }
        pen.fillText(short(tick), x, MARGIN.top + axes.h + 7);
    }
}

// ---------------------------------------------------------------------------------------------------------------- curves

// What the axis holds: the visible points in the visible steps, but for what a run that blew up has left over its cap.
function limitsOf(panel, steps) {
    const cap = Math.max(...visible().map(({run}) => run.series[panel.key]?.cap ?? -Infinity));
    let values = panel.zero ? [0] : [];
    for (const {run} of visible()) {
        const points = [run.series[panel.key], ...(panel.val ? [run.val] : [])];
        for (const one of points) {
            if (!one) continue;
            one.x.forEach((x, i) => { if (x >= steps[0] && x <= steps[1]) values.push((one.lo ?? one.y)[i], (one.hi ?? one.y)[i]); });
        }
    }
    values = finite(values);
    const sound = values.filter(value => value <= cap);
    if (sound.length > (panel.zero ? 1 : 0)) values = sound;
    if (panel.val && DATA.floor !== null) values.push(DATA.floor);
    if (!values.length) return [0, 1, false];
    const low = values.reduce((a, b) => Math.min(a, b)), high = values.reduce((a, b) => Math.max(a, b));
    const log = low > 0 && (state.log[panel.key] ?? high > panel.ratio * low);
    if (log) { const reach = (high / low) ** 0.04 * 1.0001; return [low / reach, high * reach, true]; }
    const reach = 0.04 * (high - low) || 0.04 * Math.abs(high) || 0.1;
    return [panel.zero ? 0 : low - reach, high + reach, false];
}

function path(pen, axes, xs, ys) {
    pen.beginPath();
    let down = false;
    xs.forEach((x, i) => {
        if (ys[i] === null || (axes.log && ys[i] <= 0)) { down = false; return; }
        if (down) pen.lineTo(axes.x(x), axes.y(ys[i])); else pen.moveTo(axes.x(x), axes.y(ys[i]));
        down = true;
    });
    pen.stroke();
}

function band(pen, axes, {x, lo, hi}) {
    const low = axes.log ? axes.low : -Infinity;
    pen.beginPath();
    x.forEach((step, i) => { if (hi[i] !== null) pen.lineTo(axes.x(step), axes.y(Math.max(hi[i], low))); });
    for (let i = x.length - 1; i >= 0; i--) if (lo[i] !== null) pen.lineTo(axes.x(x[i]), axes.y(Math.max(lo[i], low)));
    pen.fill();
}

const windowOf = count => Math.max(1, Math.round(count * state.smooth / 100));

function drawCurves(panel) {
    const {pen, width, height} = canvasOf(panel.stage, 0), steps = stepsShown(), [low, high, log] = limitsOf(panel, steps);
    const axes = panel.axes = axesOf(width, height, steps, low, high, log);
    panel.button.textContent = log ? "log" : "linear";
    panel.button.disabled = !log && low <= 0 && !panel.zero;
    drawFrame(pen, axes, log ? logTicks(low, high) : linearTicks(low, high, panel.large ? 7 : 4), short);
    pen.save();
    pen.beginPath(); pen.rect(MARGIN.left - 5, MARGIN.top, axes.w + 10, axes.h); pen.clip();
    if (panel.val && DATA.floor !== null) {
        pen.setLineDash([2, 3]); pen.strokeStyle = css("--text");
        path(pen, axes, steps, [DATA.floor, DATA.floor]);
    }
    for (const {run, i} of visible()) {
        const one = run.series[panel.key];
        pen.strokeStyle = pen.fillStyle = colorOf(i);
        if (one) {
            pen.globalAlpha = 0.25; pen.lineWidth = 1; pen.setLineDash([]);
            if (one.lo) band(pen, axes, one); else path(pen, axes, one.x, one.y);
            pen.globalAlpha = 1; pen.lineWidth = 1.8; pen.setLineDash(dashOf(i));
            path(pen, axes, one.x, panel.plain ? one.y : smoothed(one.y, windowOf(one.y.length)));
        }
        if (panel.val) drawValidations(pen, axes, run.val);
    }
    pen.restore();
    for (const {run, i} of visible()) drawMarks(pen, axes, panel, run, colorOf(i));
}

function drawValidations(pen, axes, {x, y}) {
    pen.lineWidth = 1.3; pen.setLineDash([5, 3]);
    path(pen, axes, x, y);
    pen.setLineDash([]);
    const every = Math.ceil(x.length / 60);
    x.forEach((step, i) => {
        if (y[i] === null || (i % every && i !== x.length - 1)) return;
        pen.beginPath(); pen.arc(axes.x(step), axes.y(y[i]), 3.2, 0, 7);
        pen.save(); pen.fillStyle = css("--panel"); pen.fill(); pen.restore();
        pen.stroke();
    });
}

// A triangle where a curve leaves the picture for good; skipped steps at the lower edge.
function drawMarks(pen, axes, panel, run, color) {
    const one = run.series[panel.key], inside = step => step >= axes.x0 && step <= axes.x1;
    const mark = (x, y, up) => {
        pen.beginPath(); pen.moveTo(x, y - up * 5); pen.lineTo(x - 5, y + up * 4); pen.lineTo(x + 5, y + up * 4); pen.fill();
    };
    pen.fillStyle = color;
    if (panel.val) for (const step of run.skipped) if (inside(step)) mark(axes.x(step), MARGIN.top + axes.h, -1);
    if (!one) return;
    let last = one.y.length;
    while (last > 0 && (one.y[last - 1] === null || one.y[last - 1] > axes.high)) last--;
    if (last < one.y.length && one.y.slice(last).some(value => value !== null) && inside(one.x[last]))
        mark(axes.x(one.x[last]), MARGIN.top + 4, 1);
}

// ------------------------------------------------------------------------------------------------------------------ maps

function colorAt(share) {
    const at = Math.min(Math.max(share, 0), 1) * (VIRIDIS.length - 1), i = Math.min(Math.floor(at), VIRIDIS.length - 2), part = at - i;
    return "rgb(" + VIRIDIS[i].map((value, c) => Math.round(value + (VIRIDIS[i + 1][c] - value) * part)).join(" ") + ")";
}

function shareOf({low, high, log}, value) {
    return log ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low || 1);
}

function drawMap(panel) {
    const {pen, width, height} = canvasOf(panel.stage, 0), {map, scale} = panel, count = map.rows.length;
    const axes = panel.axes = axesOf(width - 64, height, stepsShown(), 0, count, false), edge = map.edges;
    pen.save();
    pen.beginPath(); pen.rect(MARGIN.left, MARGIN.top, axes.w, axes.h); pen.clip();
    map.rows.forEach((row, r) => {
        const top = Math.round(axes.y(r + 1)), bottom = Math.round(axes.y(r));
        row.forEach((value, c) => {
            const left = Math.round(axes.x(edge[c])), right = Math.round(axes.x(edge[c + 1]));
            if (right < MARGIN.left || left > MARGIN.left + axes.w) return;
            const share = value === null ? 0 : shareOf(scale, value);  // over 1 by more than the rounding of numbers in the page
            pen.fillStyle = value === null ? LACKING : share > 1.001 ? BEYOND : colorAt(share);
            pen.fillRect(left, top, Math.max(1, right - left), bottom - top);
        });
    });
    pen.restore();
    pen.fillStyle = css("--faint");
    pen.textBaseline = "middle"; pen.textAlign = "right";
    const every = Math.ceil(map.layers.length / 8);
    map.layers.forEach((layer, i) => { if (i % every === 0) pen.fillText(String(layer), MARGIN.left - 7, axes.y(i + 0.5)); });
    drawSteps(pen, axes, false);
    drawBar(pen, width, axes, scale);
}

function drawBar(pen, width, axes, scale) {
    const x = width - 60, parts = 60;
    for (let i = 0; i < parts; i++) {
        pen.fillStyle = colorAt((i + 0.5) / parts);
        pen.fillRect(x, MARGIN.top + axes.h * (1 - (i + 1) / parts), 11, axes.h / parts + 0.5);
    }
    pen.fillStyle = css("--faint");
    pen.textAlign = "left"; pen.textBaseline = "middle";
    for (const tick of scale.log ? logTicks(scale.low, scale.high) : linearTicks(scale.low, scale.high, 4))
        pen.fillText(short(tick), x + 15, MARGIN.top + axes.h * (1 - shareOf(scale, tick)));
}

// ----------------------------------------------------------------------------------------------------- pointer, crosshair

const tip = document.getElementById("tip"), panels = [];
let pressed = null;

function showTip(event, title, rows) {
    tip.replaceChildren(make("div", {text: title, className: "note"}), ...rows.map(({color, text}) =>
        make("div", {}, ...(color ? [swatch(color, [])] : []), text)));
    tip.hidden = false;
    const box = tip.getBoundingClientRect(), right = event.clientX + 16 + box.width > innerWidth;
    tip.style.left = Math.max(4, right ? event.clientX - box.width - 14 : event.clientX + 16) + "px";
    tip.style.top = Math.max(4, Math.min(event.clientY + 14, innerHeight - box.height - 6)) + "px";
}

function tipOfCurves(panel, event, step) {
    const rows = [];
    let at = null;
    for (const {run, i} of visible()) {
        const one = run.series[panel.key], name = DATA.runs.length > 1 ? run.name + "  " : "";
        if (one?.x.length) {
            const k = nearest(one.x, step), range = one.lo ? "  (" + number(one.lo[k]) + " to " + number(one.hi[k]) + ")" : "";
            at ??= one.x[k];
            rows.push({color: colorOf(i), text: name + number(one.y[k], 5) + range});
        }
        if (panel.val && run.val.x.length) {
            const k = nearest(run.val.x, step);
            rows.push({color: colorOf(i), text: name + "validation " + number(run.val.y[k], 5) + " at step " + number(run.val.x[k])});
        }
    }
    showTip(event, panel.title + ", step " + number(at ?? Math.round(step)), rows);
    return at ?? step;
}

function tipOfMap(panel, event, step, y) {
    const {map, axes} = panel, r = Math.floor((MARGIN.top + axes.h - y) / axes.h * map.rows.length), c = nearest(map.x, step);
    if (r < 0 || r >= map.rows.length) return step;
    showTip(event, panel.title + (DATA.runs.length > 1 ? ", " + panel.run.name : ""),
            [{text: "layer " + map.layers[r] + ", step " + number(map.x[c])},
             {text: number(map.rows[r][c], 5)}]);
    return map.x[c];
}

function crosshair(step) {
    for (const panel of panels) {
        const {pen, height} = canvasOf(panel.stage, 1), {axes} = panel;
        if (!axes) continue;
        if (pressed && pressed.moved) {
            const [a, b] = [axes.x(pressed.from), axes.x(step)];
            pen.fillStyle = css("--accent"); pen.globalAlpha = 0.15;
            pen.fillRect(Math.min(a, b), MARGIN.top, Math.abs(b - a), axes.h);
            pen.globalAlpha = 1;
        }
        if (step === null || step < axes.x0 || step > axes.x1) continue;
        pen.strokeStyle = css("--faint"); pen.setLineDash([3, 3]);
        pen.beginPath(); pen.moveTo(axes.x(step), MARGIN.top); pen.lineTo(axes.x(step), height - MARGIN.bottom); pen.stroke();
    }
}

function listen(panel) {
    const {stage} = panel, where = event => {
        const box = stage.getBoundingClientRect();
        return {step: panel.axes.step(event.clientX - box.left), y: event.clientY - box.top};
    };
    stage.addEventListener("pointermove", event => {
        const {step, y} = where(event);
        if (pressed && Math.abs(event.clientX - pressed.x) > 4) pressed.moved = true;
        const at = panel.map ? tipOfMap(panel, event, step, y) : tipOfCurves(panel, event, step);
        crosshair(pressed?.moved ? step : at);
    });
    stage.addEventListener("pointerleave", () => { tip.hidden = true; if (!pressed) crosshair(null); });
    stage.addEventListener("pointerdown", event => {
        if (event.pointerType === "touch") return;
        pressed = {from: where(event).step, x: event.clientX, moved: false};
        stage.setPointerCapture(event.pointerId);
    });
    stage.addEventListener("pointerup", event => {
        if (pressed?.moved) {
            const [a, b] = [pressed.from, where(event).step].sort((a, b) => a - b);
            if (b - a >= 1e-6 * Math.abs(b)) zoom([Math.max(0, a), b]);
        }
        pressed = null;
    });
    stage.addEventListener("pointercancel", () => { pressed = null; });
    stage.addEventListener("dblclick", () => zoom(null));
}

function zoom(range) {
    state.zoom = range;
    keep();
    draw();
}

// ------------------------------------------------------------------------------------------------------------------ page

function swatch(color, dash) {
    const mark = make("span", {className: "swatch"});
    mark.style.borderTopColor = color;
    if (dash.length) mark.style.borderTopStyle = "dashed";
    return mark;
}

function fillRuns() {
    const heads = ["run", "state", "step", "loss", "best validation", "tokens a second", "parameters", "time left"];
    const table = document.getElementById("runs");
    table.replaceChildren(make("tr", {}, ...heads.map(text => make("th", {text}))), ...DATA.runs.map((run, i) => {
        const box = make("input", {type: "checkbox", checked: !state.hidden.includes(run.name)});
        box.addEventListener("change", () => {
            state.hidden = state.hidden.filter(name => name !== run.name).concat(box.checked ? [] : [run.name]);
            keep();
            draw();
        });
        const best = run.best ? number(run.best.loss, 5) + " at " + number(run.best.step) : "–";
        return make("tr", {}, make("td", {}, make("label", {}, box, swatch(colorOf(i), dashOf(i)), run.name)),
                    ...[run.state, number(run.step) + (run.steps ? " of " + number(run.steps) : ""), number(run.loss, 5), best,
                        number(run.tokens_per_s, 3), run.parameters ? short(+run.parameters.toPrecision(3)) : "–", run.left || "–"]
                        .map(text => make("td", {text})));
    }));
}

function fillControls() {
    const smooth = make("input", {type: "range", min: 0, max: 10, step: 0.5, value: state.smooth, ariaLabel: "smoothing"});
    smooth.addEventListener("input", () => { state.smooth = +smooth.value; keep(); draw(); });
    const all = make("button", {text: "all steps", id: "all"});
    all.addEventListener("click", () => zoom(null));
    const rows = [make("label", {}, "smoothing ", smooth), all, make("span", {text: "drag: choose steps; double click: all of them"})];
    if (DATA.every) {
        const hold = make("input", {type: "checkbox", checked: state.paused, id: "hold"});
        hold.addEventListener("change", () => { state.paused = hold.checked; keep(); });
        rows.push(make("label", {}, hold, " hold still (else anew every " + DATA.every + " s)"));
    }
    document.getElementById("controls").replaceChildren(...rows);
}

function newPanel(parent, panel, unit, extra) {
    const stage = make("div", {className: "stage", role: "img", ariaLabel: panel.title}, make("canvas"), make("canvas"));
    const kind = "panel" + (panel.large ? " large" : "") + (panel.map ? " map" : "");
    const head = make("div", {className: "head"}, make("h3", {}, panel.title, make("span", {className: "unit", text: unit})));
    if (extra) head.append(extra);
    parent.append(make("div", {className: kind}, head, stage));
    panel.stage = stage;
    panels.push(panel);
    listen(panel);
}

function fillCurves() {
    for (const panel of PANELS) {
        if (!panel.large && !DATA.runs.some(run => run.series[panel.key])) continue;
        panel.button = make("button", {title: "the scale"});
        panel.button.addEventListener("click", () => { state.log[panel.key] = !panel.axes.log; keep(); draw(); });
        newPanel(document.getElementById("curves"), panel, panel.unit ? "  " + panel.unit : "", panel.button);
    }
}

function fillMaps() {
    const place = document.getElementById("maps");
    for (const field of DATA.fields) {
        const shown = DATA.runs.filter(run => run.maps[field.name]), grid = make("div", {className: "panels"});
        place.append(make("h2", {text: "Layers: " + field.title}), grid);
        for (const run of shown) {
            const panel = {title: field.title, run, map: run.maps[field.name], scale: field.scale};
            const unit = (DATA.runs.length > 1 ? "  " + run.name : "") + (field.scale.log ? "  log scale" : "  linear scale");
            newPanel(grid, panel, unit);
        }
    }
}

function fillFlags() {
    const names = [...new Set(DATA.runs.flatMap(run => Object.keys(run.flags)))];
    const details = document.getElementById("flags");
    details.open = state.open;
    details.addEventListener("toggle", () => { state.open = details.open; keep(); });
    details.hidden = !names.length;
    details.querySelector("table").replaceChildren(
        make("tr", {}, make("th", {text: "flag"}), ...DATA.runs.map(run => make("th", {text: run.name}))),
        ...names.map(name => {
            const values = DATA.runs.map(run => String(run.flags[name] ?? ""));
            return make("tr", {className: new Set(values).size > 1 ? "differs" : ""}, make("td", {text: name}),
                        ...values.map(text => make("td", {text, className: "left"})));
        }));
}

function draw() {
    for (const panel of panels) if (panel.map) drawMap(panel); else drawCurves(panel);
    crosshair(null);
    document.getElementById("all").disabled = !state.zoom;
}

document.getElementById("note").textContent = DATA.note;
history.scrollRestoration = "manual";
fillRuns();
fillControls();
fillCurves();
fillMaps();
fillFlags();
draw();
window.addEventListener("resize", draw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { fillRuns(); draw(); });
window.scrollTo(0, state.scroll);
reloadLater();
document.body.dataset.ready = "yes";
})();
