//! Templates that `chat_template` names.

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
        _ => None,
    }
}

/// OpenAI's ChatML, as most models that use it have it.
const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// Llama 3's headers, without the date and tool preamble of 3.1.
const LLAMA3: &str = "{% for message in messages %}{% if loop.first %}{{ bos_token }}{% endif %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}";

/// Stanford Alpaca's headings for conversations.
const ALPACA: &str = "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}{{ message['content'] + '\n\n' }}{% elif message['role'] == 'user' %}{{ '### Instruction:\n' + message['content'] + '\n\n' }}{% elif message['role'] == 'assistant' %}{{ '### Response:\n' + message['content'] + eos_token + '\n\n' }}{% else %}{{ raise_exception('the alpaca template knows the roles system, user and assistant') }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}";

/// Turns of Gemma and Gemma 2, which know no system message.
const GEMMA: &str = "{{ bos_token }}{% for turn in messages %}{% if turn['role'] != ['user', 'assistant'][loop.index0 % 2] %}{{ raise_exception('the gemma template takes turns of user and assistant, and no system message') }}{% endif %}{{ '<start_of_turn>' + ('model' if turn['role'] == 'assistant' else 'user') + '\n' + turn['content'] | trim + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}";

/// Turns of Gemma 3, where a system message opens the first turn of the user.
const GEMMA3: &str = "{{ bos_token }}{% if messages and messages[0]['role'] == 'system' %}{% set opening = messages[0]['content'] + '\n\n' %}{% set turns = messages[1:] %}{% else %}{% set opening = '' %}{% set turns = messages %}{% endif %}{% for turn in turns %}{% if turn['role'] != ['user', 'assistant'][loop.index0 % 2] %}{{ raise_exception('the gemma3 template takes turns of user and assistant, behind a system message if there is one') }}{% endif %}{{ '<start_of_turn>' + ('model' if turn['role'] == 'assistant' else 'user') + '\n' + (opening if loop.first else '') + turn['content'] | trim + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}";

/// Phi-3: the assistant's heading is written with the turn before it.
const PHI_3: &str = "{{ bos_token }}{% for turn in messages %}{% if turn['role'] in ['system', 'user'] %}{{ '<|' + turn['role'] + '|>\n' + turn['content'] + '<|end|>\n' }}{% if turn['role'] == 'user' %}{{ '<|assistant|>\n' }}{% endif %}{% elif turn['role'] == 'assistant' %}{{ turn['content'] + '<|end|>\n' }}{% endif %}{% endfor %}";

/// Phi-3.5, which leaves an empty system message out.
const PHI_35: &str = "{% for turn in messages %}{% if turn['role'] in ['user', 'assistant'] or turn['role'] == 'system' and turn['content'] %}{{ '<|' + turn['role'] + '|>\n' + turn['content'] + '<|end|>\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}";
