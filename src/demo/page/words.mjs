// The page's words in both languages; `{name}` stands for a value. The choice is remembered.

const EN = {
  title: "Millstream demo", language: "Language", tabs: "Applications",
  intro: "The page asks the relay, the relay asks the built-in mock provider, and every word comes on the moment it arrives.",
  chat: "Chat", optimize: "Prompt optimiser", compare: "Wait or stream",
  trouble: "What goes wrong", troubleNone: "nothing", troubleSlow: "slow first word (4 s)",
  troubleNever: "no word for 70 s",
  troubleSilence: "20 s of silence in the middle", troublePieces: "bytes in pieces of 5, CRLF",
  troubleErrorFirst: "error before the first word", troubleErrorLater: "error in the middle",
  troubleTruncate: "provider stops in the middle", troubleReset: "provider’s connection breaks",
  troubleLimited: "too many requests (429)", troubleTwice: "away (503), back at the third try",
  troubleLong: "100 s of answer",
  conversation: "Conversation", noTurns: "What is said stands here.", you: "You", assistant: "Model",
  message: "Message", messageExample: "How does a stream arrive?",
  route: "Route", routeChat: "/chat: tokens for the page",
  routeOpenai: "OpenAI chat, to the byte", routeResponses: "OpenAI Responses, to the byte",
  routeAnthropic: "Anthropic, to the byte", routeDashscope: "DashScope, to the byte",
  send: "Send", stop: "Stop", clear: "New chat", again: "Ask again",
  prompt: "Prompt", promptExample: "Write a poem about a mill.", type: "Kind",
  typeImprove: "Improve (优化)", typeExpand: "Expand (扩写)", typeShorten: "Shorten (缩写)",
  model: "Model", opening: "Opening", openingExample: "e.g. You are a poet.",
  optimizeGo: "Optimise", result: "Result",
  compareIntro: "The same question twice, at the same moment and over the same route. The left page waits until the answer is whole; the right one shows what is there.",
  compareGo: "Ask both", waitingFor: "Wait for all", streamed: "Stream",
  toRead: "something to read after", allThere: "all there after",
  keys: "Ctrl+Enter sends, Escape stops. Arrow keys change tabs.",
  first: "first token", tokens: "tokens", rate: "tokens/s", time: "time",
  gaps: "Gaps between tokens", longest: ", the longest {ms} ms",
  gapsLabel: "Gaps between {tokens} tokens; the longest was {ms} ms",
  ready: "Ready.", waiting: "Waiting for the first token.", streaming: "The answer is coming.",
  trying: "No answer yet: connecting again in {seconds} s (try {tried} of {of} more).",
  away: "Connection lost: coming back in {seconds} s. The rest of the answer is kept.",
  done: "Done: {tokens} tokens in {seconds} s.",
  doneReturned: "Done: {tokens} tokens in {seconds} s, over {returned} lost connections.",
  doneAgain: "Done: {tokens} tokens in {seconds} s, after {more} more tries.",
  stopped: "Stopped. What came stays.",
  stoppedFirst: "Stopped before the first token.",
  failed: "The answer broke off after {tokens} tokens: {why}",
  failedFirst: "The provider failed before the first token: {why}",
  timeout: "Time is up after {seconds} s, the answer is not complete: {why}",
  timeoutFirst: "Time is up after {seconds} s, and no answer has begun: {why}",
  limited: "Too many requests (429). Try again later. {why}",
  limitedAfter: "Too many requests (429). Try again in {after} s. {why}",
  refusedInvalid: "The request was refused ({status}): {why}",
  refusedAway: "The provider is not there ({status}): {why}",
  refusedLate: "The provider did not answer in time ({status}): {why}",
  refused: "The request failed with status {status}: {why}",
  cut: "The connection was cut before the answer was complete. What came stays.",
  cutFirst: "The connection was cut before the first token.",
  lost: "The connection was lost, and the rest of the answer is no longer kept. What came stays.",
  gap: "The connection was lost, and a part of the answer is no longer kept. What came stays.",
  unreachable: "The relay cannot be reached ({why}).",
  unfinished: "The stream ended without its last event; the answer may not be complete.",
  comparing: "Both are running.",
  compared: "With streaming there was something to read after {first} s, without it after {whole} s. Until then the right page had shown {tokens} tokens, the left one none.",
};

const ZH = {
  title: "Millstream 演示", language: "语言", tabs: "应用",
  intro: "页面请求中继，中继请求内置的模拟模型服务，每个词一到就显示。",
  chat: "对话", optimize: "提示词优化", compare: "等待与流式",
  trouble: "模拟故障", troubleNone: "无", troubleSlow: "首词很慢（4 秒）",
  troubleNever: "70 秒没有一个词",
  troubleSilence: "中途静默 20 秒", troublePieces: "每 5 字节一块，CRLF 换行",
  troubleErrorFirst: "首词之前出错", troubleErrorLater: "中途出错",
  troubleTruncate: "服务中途停止", troubleReset: "服务连接断开",
  troubleLimited: "请求过多（429）", troubleTwice: "暂不可用（503），第三次恢复",
  troubleLong: "长达 100 秒的回答",
  conversation: "对话内容", noTurns: "对话会显示在这里。", you: "你", assistant: "模型",
  message: "消息", messageExample: "流式回答是怎样到达的？",
  route: "路由", routeChat: "/chat：页面所需的 token 事件",
  routeOpenai: "OpenAI 对话，原样转发", routeResponses: "OpenAI Responses，原样转发",
  routeAnthropic: "Anthropic，原样转发", routeDashscope: "DashScope，原样转发",
  send: "发送", stop: "停止", clear: "新对话", again: "重新请求",
  prompt: "提示词", promptExample: "写一首关于磨坊的诗。", type: "方式",
  typeImprove: "优化", typeExpand: "扩写", typeShorten: "缩写",
  model: "模型", opening: "开场白", openingExample: "例如：你是一位诗人。",
  optimizeGo: "开始优化", result: "结果",
  compareIntro: "同一个问题，同一时刻，经同一路由请求两次。左边等回答完整后才显示，右边到多少显示多少。",
  compareGo: "同时请求", waitingFor: "等待全部", streamed: "流式",
  toRead: "开始可读", allThere: "全部到达",
  keys: "Ctrl+Enter 发送，Esc 停止，方向键切换标签页。",
  first: "首个 token", tokens: "token 数", rate: "token/秒", time: "用时",
  gaps: "token 间隔", longest: "，最长 {ms} 毫秒",
  gapsLabel: "{tokens} 个 token 的间隔，最长 {ms} 毫秒",
  ready: "就绪。", waiting: "正在等待首个 token。", streaming: "正在接收回答。",
  trying: "尚无回答：{seconds} 秒后重新连接（第 {tried} 次，最多 {of} 次）。",
  away: "连接中断：{seconds} 秒后重新连接，其余回答仍保留。",
  done: "完成：{tokens} 个 token，用时 {seconds} 秒。",
  doneReturned: "完成：{tokens} 个 token，用时 {seconds} 秒，途中断线 {returned} 次。",
  doneAgain: "完成：{tokens} 个 token，用时 {seconds} 秒，重试了 {more} 次。",
  stopped: "已停止，已收到的内容保留。",
  stoppedFirst: "已停止，尚未收到内容。",
  failed: "收到 {tokens} 个 token 后中断：{why}",
  failedFirst: "首个 token 之前服务出错：{why}",
  timeout: "{seconds} 秒后超时，回答不完整：{why}",
  timeoutFirst: "{seconds} 秒后超时，尚未开始回答：{why}",
  limited: "请求过多（429），请稍后再试。{why}",
  limitedAfter: "请求过多（429），请在 {after} 秒后再试。{why}",
  refusedInvalid: "请求被拒绝（{status}）：{why}",
  refusedAway: "服务不可用（{status}）：{why}",
  refusedLate: "服务未及时应答（{status}）：{why}",
  refused: "请求失败，状态码 {status}：{why}",
  cut: "回答完成之前连接中断，已收到的内容保留。",
  cutFirst: "首个 token 之前连接中断。",
  lost: "连接中断，其余回答已不再保留，已收到的内容保留。",
  gap: "连接中断，部分回答已不再保留，已收到的内容保留。",
  unreachable: "无法连接中继（{why}）。",
  unfinished: "流结束时没有结束事件，回答可能不完整。",
  comparing: "两边正在进行。",
  compared: "流式 {first} 秒后就有内容可读，不用流式要等 {whole} 秒；此前右边已显示 {tokens} 个 token，左边一个也没有。",
};

export const WORDS = { en: EN, zh: ZH };
const TAGS = { en: "en", zh: "zh-CN" };
const REMEMBERED = "millstream-language";

function wanted() {
  try {
    const remembered = localStorage.getItem(REMEMBERED);
    if (remembered in WORDS) return remembered;
  } catch { /* Storage may be forbidden: then nothing is remembered. */ }
  const first = navigator.languages.find(language => /^(zh|en)\b/i.test(language));
  return first?.toLowerCase().startsWith("zh") ? "zh" : "en";
}

let language = "en";

export function say(key, values = {}) {
  return WORDS[language][key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

// Puts everything below `root` in the language.
export function translate(root = document) {
  for (const element of root.querySelectorAll("[data-t]")) {
    element.textContent = say(element.dataset.t);
  }
  for (const element of root.querySelectorAll("[data-label]")) {
    element.setAttribute("aria-label", say(element.dataset.label));
  }
  for (const element of root.querySelectorAll("[data-placeholder]")) {
    element.placeholder = say(element.dataset.placeholder);
  }
  // An example that nobody has changed follows the language.
  for (const element of root.querySelectorAll("[data-example]")) {
    const key = element.dataset.example;
    if (Object.values(WORDS).some(words => words[key] === element.value)) element.value = say(key);
  }
}

// Speaks the remembered language, or the browser's; calls `changed` now and at each change.
export function begin(changed) {
  const speak = chosen => {
    language = chosen;
    document.documentElement.lang = TAGS[chosen];
    document.title = say("title");
    for (const button of document.querySelectorAll("[data-language]")) {
      button.setAttribute("aria-pressed", button.dataset.language === chosen);
    }
    translate();
    changed();
  };
  for (const button of document.querySelectorAll("[data-language]")) {
    button.addEventListener("click", () => {
      try { localStorage.setItem(REMEMBERED, button.dataset.language); } catch { /* as above */ }
      speak(button.dataset.language);
    });
  }
  speak(wanted());
}
