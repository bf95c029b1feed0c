// What the plots share: colours for both schemes (Okabe-Ito, safe for colour-blind readers), layout, drawing.

const dark = matchMedia("(prefers-color-scheme: dark)");
const redraws = new Set();
dark.addEventListener("change", () => redraws.forEach((redraw) => redraw()));

/** Call `redraw` when the colour scheme changes. */
export const onSchemeChange = (redraw) => redraws.add(redraw);

/** The colours of the present scheme. */
export const palette = () =>
  dark.matches
    ? {
        front: "#56B4E9",
        parent: "#E69F00",
        soup: "#F0E442",
        best: "#1FC29A",
        candidate: "#7d8590",
        text: "#d8dee6",
        grid: "#30363d",
      }
    : {
        front: "#0072B2",
        parent: "#E69F00",
        soup: "#D55E00",
        best: "#009E73",
        candidate: "#9aa2ab",
        text: "#24292f",
        grid: "#e3e6ea",
      };

const isNarrow = (node) => node.clientWidth < 500;

function layout(node, xTitle, yTitle) {
  const colors = palette();
  const axis = (title) => ({
    title: { text: title, standoff: 8 },
    gridcolor: colors.grid,
    zeroline: false,
    automargin: true,
  });
  return {
    paper_bgcolor: "transparent",
    plot_bgcolor: "transparent",
    font: { color: colors.text, family: "system-ui, sans-serif", size: 12 },
    margin: { l: 48, r: 12, t: 12, b: 40 },
    xaxis: axis(xTitle),
    yaxis: axis(yTitle),
    legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom", x: 0 },
    hoverlabel: { align: "left" },
    hovermode: "closest",
    dragmode: isNarrow(node) ? false : "zoom",
    // Zoom and hidden traces stay as the user left them while data come in, but not when the axes change.
    uirevision: `${xTitle}|${yTitle}`,
  };
}

/**
 * Draw traces into `node`, or redraw what changed; hide it while there is no point to draw.
 *
 * Traces are SVG: Plotly's WebGL traces compile code at run time, which the page's content security policy forbids.
 */
export function draw(node, traces, { xTitle, yTitle, showlegend = true }) {
  node.hidden = traces.every((trace) => trace.x.length === 0);
  if (node.hidden) return null;
  const config = { displaylogo: false, responsive: true, displayModeBar: false };
  return window.Plotly.react(node, traces, { ...layout(node, xTitle, yTitle), showlegend }, config);
}
