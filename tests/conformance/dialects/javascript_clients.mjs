// What the JavaScript clients make of a running server: `node javascript_clients.mjs PACKAGES URL CHECK [MODEL]` prints JSON.
import { createRequire } from "node:module";

const [packages, url, check, model = "yardling"] = process.argv.slice(2);
const require = createRequire(`${packages}/package.json`);
const { Ollama } = require("ollama");
const { OpenAI } = require("openai");

const ollama = new Ollama({ host: url });
const openai = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "Hello" }];
const options = { temperature: 0, num_predict: 40 };
const weather = {
  type: "function",
  function: {
    name: "get_weather",
    description: "Tell the weather of a city.",
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
  },
};
const schema = {
  type: "object",
  properties: { name: { type: "string", maxLength: 20 } },
  required: ["name"],
  additionalProperties: false,
};

async function refused(promise) {
  try {
    await promise;
  } catch (error) {
    return { status: error.status ?? error.status_code, message: error.message, code: error.code ?? null };
  }
  return null;
}

const checks = {
  async ollamaChat() {
    const whole = await ollama.chat({ model, messages, options });
    let text = "";
    const ends = [];
    for await (const part of await ollama.chat({ model, messages, options, stream: true })) {
      text += part.message.content;
      if (part.done) ends.push(part.done_reason);
    }
    return { whole: whole.message.content, text, ends, evalCount: whole.eval_count };
  },
  async ollamaGenerate() {
    const whole = await ollama.generate({ model, prompt: "Hello", options });
    let text = "";
    for await (const part of await ollama.generate({ model, prompt: "Hello", options, stream: true })) {
      text += part.response;
    }
    return { whole: whole.response, text };
  },
  async ollamaTools() {
    const question = [{ role: "user", content: "What is the weather in Taipei? Use the tool." }];
    const wanted = { temperature: 0, num_predict: 100 };
    const answer = await ollama.chat({ model, messages: question, tools: [weather], options: wanted });
    const result = { role: "tool", tool_name: "get_weather", content: "rain" };
    const after = await ollama.chat({ model, messages: [...question, answer.message, result], options: wanted });
    return { calls: answer.message.tool_calls, done: after.done };
  },
  async ollamaFormat() {
    const question = [{ role: "user", content: "Say who you are, as JSON." }];
    return JSON.parse((await ollama.chat({ model, messages: question, format: schema, options })).message.content);
  },
  async ollamaModels() {
    const listed = (await ollama.list()).models.map((one) => one.name);
    const shown = await ollama.show({ model });
    const loaded = await ollama.generate({ model: "echo", prompt: "", keep_alive: "10m" });
    const running = (await ollama.ps()).models.map((one) => one.name);
    const unloaded = await ollama.generate({ model: "echo", prompt: "", keep_alive: 0 });
    const acts = [loaded.done_reason, unloaded.done_reason];
    return { listed, format: shown.details.format, running, acts, version: (await ollama.version()).version };
  },
  async ollamaSilence() {
    let text = "";
    let empty = 0;
    for await (const part of await ollama.chat({ model: "tiny", messages, stream: true })) {
      text += part.message.content;
      if (!part.done && !part.message.content) empty += 1;
    }
    return { text, empty };
  },
  async openaiSilence() {
    let text = "";
    const stream = await openai.chat.completions.create({ model: "tiny", messages, stream: true });
    for await (const chunk of stream) text += chunk.choices[0]?.delta?.content ?? "";
    return { text };
  },
  async ollamaErrors() {
    return [
      await refused(ollama.chat({ model: "nothing", messages })),
      await refused(ollama.chat({ model: "nothing", messages, stream: true })),
      await refused(ollama.chat({ model, messages, options: { temperature: -1 } })),
      await refused(ollama.embed({ model, input: "x" })),
      await refused(ollama.delete({ model: "nothing" })),
      await refused(ollama.push({ model: "x/y" })),
    ];
  },
  async ollamaAbort() {
    const stream = await ollama.chat({ model: "endless", messages, stream: true });
    let count = 0;
    try {
      for await (const part of stream) {
        if (part.message.content && ++count === 2) stream.abort();
      }
    } catch (error) {
      return { name: error.name, count };
    }
    return { name: "", count };
  },
  async openaiChat() {
    const whole = await openai.chat.completions.create({ model, messages, temperature: 0, max_tokens: 40 });
    const stream = await openai.chat.completions.create({
      model, messages, temperature: 0, max_tokens: 40, stream: true, stream_options: { include_usage: true },
    });
    let text = "";
    let usage = null;
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta?.content ?? "";
      usage = chunk.usage ?? usage;
    }
    return { whole: whole.choices[0].message.content, text, usage };
  },
  async openaiTools() {
    const answer = await openai.chat.completions.create({
      model, messages: [{ role: "user", content: "What is the weather in Taipei?" }], tools: [weather],
      tool_choice: "required", temperature: 0, max_tokens: 100,
    });
    return answer.choices[0].message.tool_calls;
  },
  async openaiModels() {
    const listed = [];
    for await (const one of openai.models.list()) listed.push(one.id);
    return { listed, one: (await openai.models.retrieve(model)).owned_by };
  },
  async openaiErrors() {
    return [
      await refused(openai.chat.completions.create({ model: "nothing", messages })),
      await refused(openai.chat.completions.create({ model, messages, temperature: -1 })),
      await refused(openai.embeddings.create({ model, input: "x" })),
    ];
  },
};

console.log(JSON.stringify(await checks[check]()));
