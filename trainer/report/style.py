"""The style and the script of the report, both part of its one file."""

STYLE = """
:root { color-scheme: light dark; --page: #fff; --card: #f6f7f9; --text: #1b1f24; --quiet: #57606a; --line: #d8dde3;
  --train: #1f6feb; --eval: #c2410c; --good: #1a7f37; --bad: #b3261e; --third: #8250df; }
@media (prefers-color-scheme: dark) { :root { --page: #0f1216; --card: #181c22; --text: #e6e9ed; --quiet: #9aa4af; --line: #2d343c;
  --train: #6cb0ff; --eval: #ff9d5c; --good: #56d364; --bad: #ff8178; --third: #c297ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1160px; padding: 24px 20px 48px; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.5rem; margin: 0; overflow-wrap: anywhere; } h2 { font-size: 1.15rem; margin: 36px 0 12px; } h3 { font-size: 1rem; margin: 0; }
.lead { color: var(--quiet); margin: 4px 0 20px; }
.status { font-weight: 600; } .finished { color: var(--good); } .failed { color: var(--bad); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: 12px; margin: 0; }
.tiles div, .chart, pre, table { background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
.tiles div { padding: 10px 14px; } .tiles dt { color: var(--quiet); font-size: .85rem; } .tiles dd { margin: 0; font-size: 1.2rem; font-weight: 600; }
.tiles small { display: block; font-size: .8rem; font-weight: 400; color: var(--quiet); }
.charts { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 14px; }
.chart { margin: 0; padding: 12px 14px; position: relative; } .wide { grid-column: 1 / -1; }
.keys { display: flex; flex-wrap: wrap; gap: 4px 14px; font-size: .85rem; color: var(--quiet); min-height: 1.5em; }
.key i { display: inline-block; width: 18px; height: 0; margin-right: 6px; vertical-align: middle; border-top: 3px solid; }
svg { display: block; width: 100%; height: auto; touch-action: pan-y; } svg text { font-size: 15px; fill: var(--quiet); } .wide svg text { font-size: 8.5px; }
path { fill: none; vector-effect: non-scaling-stroke; } .grid { stroke: var(--line); } .curve { stroke-width: 1.8; stroke-linejoin: round; }
.train { stroke: var(--train); color: var(--train); } .eval { stroke: var(--eval); color: var(--eval); }
.level { stroke: var(--quiet); color: var(--quiet); stroke-dasharray: 6 4; } .key .level { border-top-style: dashed; }
.third { stroke: var(--third); color: var(--third); } circle.third { fill: var(--third); }
circle { stroke: none; } circle.train { fill: var(--train); } circle.eval { fill: var(--eval); } .wide circle { r: 2px; }
.rule { stroke: var(--text); visibility: hidden; }
output { position: absolute; top: 10px; right: 14px; padding: 0 6px; font-size: .85rem; font-variant-numeric: tabular-nums; background: var(--card); }
figcaption { font-size: .8rem; color: var(--quiet); }
pre { padding: 12px 14px; overflow-x: auto; font: .85rem/1.45 ui-monospace, Menlo, Consolas, monospace; margin: 0; }
.sample { white-space: pre-wrap; overflow-wrap: anywhere; }
.tables { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 0 20px; }
table { width: 100%; border-collapse: separate; border-spacing: 0; overflow: hidden; font-size: .9rem; }
th, td { text-align: left; vertical-align: top; padding: 5px 12px; border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
tr:last-child > * { border-bottom: 0; } tbody th { font-weight: 400; color: var(--quiet); width: 38%; }
.scroll { overflow-x: auto; } .scroll table { min-width: 680px; } summary { cursor: pointer; font-weight: 600; margin: 32px 0 10px; font-size: 1.15rem; }
.verdicts { list-style: none; margin: 0 0 14px; padding: 0; display: grid; gap: 6px; }
.verdicts li { display: grid; grid-template-columns: 5.8em 1fr; padding: 8px 14px; background: var(--card); border: 1px solid var(--line);
  border-left: 5px solid; border-radius: 8px; } .verdicts span { color: var(--text); }
.verdicts small, .decision small, .card small { display: block; color: var(--quiet); }
.good, .decision small.good { color: var(--good); } .bad, .decision small.bad { color: var(--bad); } .unsure, .quiet { color: var(--quiet); }
.decision { margin-bottom: 14px; } .decision tbody th { width: 26%; color: var(--text); } .decision :is(th, td) { overflow-wrap: normal; }
main > h3 { margin: 26px 0 10px; } .note { color: var(--quiet); font-size: .9rem; margin: 6px 0 10px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 14px; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 12px 16px; }
.card h4 { margin: 0; } .card p { margin: 4px 0 8px; } .card ol { padding-left: 1.2em; }
@media (max-width: 760px) { body { padding: 16px 12px 32px; } .charts, .tables { grid-template-columns: minmax(0, 1fr); }
  .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); } svg text, .wide svg text { font-size: 19px; } .wide circle { r: 3px; }
  output { position: static; display: block; min-height: 1.5em; padding: 0; } }
@media print { output { display: none; } }
"""

SCRIPT = """
for (const figure of document.querySelectorAll("figure.chart")) {
  const {plot: [left, right, width], steps: [first, last], along, series} = JSON.parse(figure.querySelector("script").textContent);
  const svg = figure.querySelector("svg"), rule = svg.querySelector(".rule"), output = figure.querySelector("output");
  const nearest = (points, step) => {
    let low = 0, high = points.length - 1;
    while (high - low > 1) { const middle = (low + high) >> 1; if (points[middle][0] <= step) low = middle; else high = middle; }
    return Math.abs(points[low][0] - step) <= Math.abs(points[high][0] - step) ? points[low] : points[high];
  };
  svg.addEventListener("pointermove", event => {
    const box = svg.getBoundingClientRect(), u = (event.clientX - box.left) / box.width * width;
    const step = first + (Math.min(Math.max(u, left), right) - left) / (right - left) * (last - first);
    const at = nearest(series[0].points, step)[0];
    rule.setAttribute("transform", `translate(${left + (at - first) / Math.max(last - first, 1) * (right - left)} 0)`);
    rule.style.visibility = "visible";
    output.textContent = `${along} ${at.toLocaleString("en")}: ` + series.map(({name, points}) => {
      const [there, value] = nearest(points, at);
      return `${name} ${value}` + (there === at || points.length === 2 ? "" : ` (${along} ${there.toLocaleString("en")})`);
    }).join(", ");
  });
  svg.addEventListener("pointerleave", () => { rule.style.visibility = "hidden"; output.textContent = ""; });
}
"""
