//! Templates that `chat_template` names: those of Axolotl 0.19. The files in `axolotl` are its own, byte for byte; where they
//! come from stands beside them.

/// A template by the name that `chat_template` uses.
pub fn built_in(name: &str) -> Option<&'static str> {
    match name {
        "chatml" => Some(CHATML),
        "llama3" => Some(LLAMA3),
        "alpaca" => Some(ALPACA),
        "gemma" => Some(GEMMA),
        "gemma3" => Some(GEMMA3),
        "phi_3" => Some(PHI_3),
        "phi_35" => Some(PHI_35),
        "qwen_25" => Some(QWEN_25),
        "qwen3" => Some(QWEN3),
        "aya" => Some(include_str!("axolotl/aya.jinja")),
        "cohere" => Some(include_str!("axolotl/cohere.jinja")),
        "command_a" => Some(include_str!("axolotl/command_a.jinja")),
        "command_a_rag" => Some(include_str!("axolotl/command_a_rag.jinja")),
        "command_a_tool_use" => Some(include_str!("axolotl/command_a_tool_use.jinja")),
        "deepseek_v2" => Some(include_str!("axolotl/deepseek_v2.jinja")),
        "deepseek_v3" => Some(include_str!("axolotl/deepseek_v3.jinja")),
        "exaone" => Some(include_str!("axolotl/exaone.jinja")),
        "exaone4" => Some(include_str!("axolotl/exaone4.jinja")),
        "falcon_h1" => Some(include_str!("axolotl/falcon_h1.jinja")),
        "gemma3n" => Some(include_str!("axolotl/gemma3n.jinja")),
        "gemma4" | "gemma4_unified" => Some(include_str!("axolotl/gemma4.jinja")),
        "jamba" => Some(include_str!("axolotl/jamba.jinja")),
        "llama3_2_vision" => Some(include_str!("axolotl/llama3_2_vision.jinja")),
        "llama4" => Some(include_str!("axolotl/llama4.jinja")),
        "llava" => Some(include_str!("axolotl/llava.jinja")),
        "metharme" => Some(include_str!("axolotl/metharme.jinja")),
        "mistral_v1" => Some(include_str!("axolotl/mistral_v1.jinja")),
        "mistral_v2v3" => Some(include_str!("axolotl/mistral_v2v3.jinja")),
        "mistral_v3_tekken" => Some(include_str!("axolotl/mistral_v3_tekken.jinja")),
        "mistral_v7_tekken" => Some(include_str!("axolotl/mistral_v7_tekken.jinja")),
        "nemotron_h" => Some(include_str!("axolotl/nemotron_h.jinja")),
        "phi_4" => Some(include_str!("axolotl/phi_4.jinja")),
        "pixtral" => Some(include_str!("axolotl/pixtral.jinja")),
        "qwen2_vl" => Some(include_str!("axolotl/qwen2_vl.jinja")),
        "qwen3_5" => Some(include_str!("axolotl/qwen3_5.jinja")),
        _ => None,
    }
}

/// OpenAI's ChatML, as most models that use it have it.
const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// Llama 3's headers, without the date and tool preamble of 3.1.
const LLAMA3: &str = "{% for message in messages %}{% if loop.first %}{{ bos_token }}{% endif %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}";

/// Stanford Alpaca's headings for conversations.
const ALPACA: &str = "{{ bos_token }}{% for message in messages %}{% if not loop.first %}{{ '\n\n' }}{% endif %}{% if message['role'] == 'system' %}{{ message['content'] }}{% elif message['role'] == 'user' %}{{ '### Instruction:\n' + message['content'] }}{% elif message['role'] == 'assistant' %}{{ '### Response:\n' + message['content'] + eos_token }}{% else %}{{ raise_exception('the alpaca template knows the roles system, user and assistant') }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '\n\n### Response:\n' }}{% endif %}";

/// Turns of Gemma and Gemma 2, which know no system message.
const GEMMA: &str = "{{ bos_token }}{% for turn in messages %}{% if turn['role'] != ['user', 'assistant'][loop.index0 % 2] %}{{ raise_exception('the gemma template takes turns of user and assistant, and no system message') }}{% endif %}{{ '<start_of_turn>' + ('model' if turn['role'] == 'assistant' else 'user') + '\n' + turn['content'] | trim + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}";

/// Turns of Gemma 3, where a system message opens the first turn of the user.
const GEMMA3: &str = "{{ bos_token }}{% if messages and messages[0]['role'] == 'system' %}{% set opening = messages[0]['content'] + '\n\n' %}{% set turns = messages[1:] %}{% else %}{% set opening = '' %}{% set turns = messages %}{% endif %}{% for turn in turns %}{% if turn['role'] != ['user', 'assistant'][loop.index0 % 2] %}{{ raise_exception('the gemma3 template takes turns of user and assistant, behind a system message if there is one') }}{% endif %}{{ '<start_of_turn>' + ('model' if turn['role'] == 'assistant' else 'user') + '\n' + (opening if loop.first else '') + turn['content'] | trim + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}";

/// Phi-3: the assistant's heading is written with the turn before it.
const PHI_3: &str = "{{ bos_token }}{% for turn in messages %}{% if turn['role'] in ['system', 'user'] %}{{ '<|' + turn['role'] + '|>\n' + turn['content'] + '<|end|>\n' }}{% if turn['role'] == 'user' %}{{ '<|assistant|>\n' }}{% endif %}{% elif turn['role'] == 'assistant' %}{{ turn['content'] + '<|end|>\n' }}{% endif %}{% endfor %}";

/// Phi-3.5, which leaves an empty system message out.
const PHI_35: &str = "{% for turn in messages %}{% if turn['role'] in ['user', 'assistant'] or turn['role'] == 'system' and turn['content'] %}{{ '<|' + turn['role'] + '|>\n' + turn['content'] + '<|end|>\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}";

/// Qwen2.5's ChatML, with a system message of its own and with tools.
const QWEN_25: &str = r#"{%- set is_told = messages and messages[0].role == 'system' -%}
{{ '<|im_start|>system\n' }}
{{- messages[0].content if is_told else 'You are Qwen, created by Alibaba Cloud. You are a helpful assistant.' }}
{%- if tools -%}
{{ "\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with function signatures within <tools></tools> XML tags:\n<tools>" }}
{%- for tool in tools -%}{{ '\n' }}{{ tool | tojson }}{%- endfor -%}
{{ "\n</tools>\n\nFor each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call>" }}
{%- endif -%}
{{ '<|im_end|>\n' }}
{%- for turn in messages -%}
{%- if turn.role == 'tool' -%}
{%- if loop.first or messages[loop.index0 - 1].role != 'tool' -%}{{ '<|im_start|>user' }}{%- endif -%}
{{ '\n<tool_response>\n' + turn.content + '\n</tool_response>' }}
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' -%}{{ '<|im_end|>\n' }}{%- endif -%}
{%- elif turn.role == 'assistant' and turn.tool_calls -%}
{{ '<|im_start|>assistant' }}
{%- if turn.content -%}{{ '\n' + turn.content }}{%- endif -%}
{%- for call in turn.tool_calls -%}
{%- set asked = call.function if call.function is defined else call -%}
{{ '\n<tool_call>\n{"name": "' + asked.name + '", "arguments": ' }}{{ asked.arguments | tojson }}{{ '}\n</tool_call>' }}
{%- endfor -%}
{{ '<|im_end|>\n' }}
{%- elif turn.role in ['user', 'assistant'] or turn.role == 'system' and not loop.first -%}
{{ '<|im_start|>' + turn.role + '\n' + turn.content + '<|im_end|>\n' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"#;

/// Qwen3's: what the assistant thought since the last question is kept, what it thought before is left out.
const QWEN3: &str = r##"{%- set is_told = messages and messages[0].role == 'system' -%}
{%- if tools or is_told -%}
{{ '<|im_start|>system\n' }}
{%- if is_told -%}{{ messages[0].content }}{%- endif -%}
{%- if tools -%}
{%- if is_told -%}{{ '\n\n' }}{%- endif -%}
{{ "# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with function signatures within <tools></tools> XML tags:\n<tools>" }}
{%- for tool in tools -%}{{ '\n' }}{{ tool | tojson }}{%- endfor -%}
{{ "\n</tools>\n\nFor each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call>" }}
{%- endif -%}
{{ '<|im_end|>\n' }}
{%- endif -%}
{%- set last = messages | length - 1 -%}
{%- set asked = namespace(at=last) -%}
{%- for turn in messages -%}
{%- if turn.role == 'user' and not (turn.content.startswith('<tool_response>') and turn.content.endswith('</tool_response>')) -%}
{%- set asked.at = loop.index0 -%}
{%- endif -%}
{%- endfor -%}
{%- set final = real_last_index if real_last_index is defined and real_last_index is not none else last -%}
{%- for turn in messages -%}
{%- if turn.role == 'tool' -%}
{%- if loop.first or messages[loop.index0 - 1].role != 'tool' -%}{{ '<|im_start|>user' }}{%- endif -%}
{{ '\n<tool_response>\n' + turn.content + '\n</tool_response>' }}
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' -%}{{ '<|im_end|>\n' }}{%- endif -%}
{%- elif turn.role == 'assistant' -%}
{%- set thought = '' -%}
{%- set said = turn.content -%}
{%- if turn.reasoning_content is defined and turn.reasoning_content is not none -%}
{%- set thought = turn.reasoning_content -%}
{%- elif '</think>' in turn.content -%}
{%- set thought = turn.content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') -%}
{%- set said = turn.content.split('</think>')[-1].lstrip('\n') -%}
{%- endif -%}
{{ '<|im_start|>assistant\n' }}
{%- if loop.index0 > asked.at and (loop.index0 == final or thought) -%}
{{ '<think>\n' + thought.strip('\n') + '\n</think>\n\n' + said.lstrip('\n') }}
{%- else -%}
{{ said }}
{%- endif -%}
{%- for call in turn.tool_calls or [] -%}
{%- if said or not loop.first -%}{{ '\n' }}{%- endif -%}
{%- set asks = call.function if call.function else call -%}
{{ '<tool_call>\n{"name": "' + asks.name + '", "arguments": ' }}
{{- asks.arguments if asks.arguments is string else asks.arguments | tojson }}
{{- '}\n</tool_call>' }}
{%- endfor -%}
{{ '<|im_end|>\n' }}
{%- elif turn.role == 'user' or turn.role == 'system' and not loop.first -%}
{{ '<|im_start|>' + turn.role + '\n' + turn.content + '<|im_end|>\n' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|im_start|>assistant\n<think>\n\n' }}
{%- if enable_thinking is defined and enable_thinking is false -%}{{ '</think>\n\n' }}{%- endif -%}
{%- endif -%}"##;
