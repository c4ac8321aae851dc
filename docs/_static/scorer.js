// Ranks search results: guides before the API reference, and pages whose title has every word of the query first.
const QUERY = (new URLSearchParams(window.location.search).get("q") || "").toLowerCase().trim();
const WORDS = QUERY.split(/\s+/).map((word) => word.replace(/(ies|es|s|ing|ed)$/, ""));

var Scorer = {
  score: ([docname, title, anchor, descr, score]) => {
    const heading = title.toLowerCase().split(" > ").pop();
    const fraction = WORDS.filter((word) => heading.includes(word)).length / WORDS.length;
    const isReference = docname.startsWith("reference/") || docname === "coming_from" || docname === "glossary";
    const isWholeHeading = heading.replace(/s$/, "") === QUERY.replace(/s$/, "");
    return score + 20 * fraction + (isWholeHeading ? 30 : 0) - (isReference ? 120 : 0);
  },
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
