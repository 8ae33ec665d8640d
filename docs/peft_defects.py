"""Defects of PEFT itself, for docs/support.md: each with the fewest lines that show it, as a console session.

`tests/test_peft_defects.py` runs them as they stand on the page, so a release of PEFT that mends one is noticed.
"""

DEFECTS = """## Where PEFT itself fails

Each session shows what the installed PEFT does today; a test runs it. All of them begin with:

```pycon
>>> import tempfile, torch, transformers
>>> from peft import *
>>> ids = torch.tensor([[5, 6, 7]])
>>> sizes = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48, "vocab_size": 64, "pad_token_id": 0}
>>> def tiny(name, **options):
...     config = getattr(transformers, f"{name}Config")(**sizes, **options)
...     return getattr(transformers, f"{name}ForSequenceClassification")(config).eval()

```

### Prefix tuning refuses classifiers

It looks for `past_key_values` in the signature of their `forward`, where transformers 5 has no such name. `prefix_tuning` of
lora_bench works.

```pycon
>>> model = get_peft_model(tiny("Roberta"), PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=4))
>>> model(input_ids=ids)
Traceback (most recent call last):
ValueError: Model does not support past key values which are required for prefix tuning.

```

### Prompt tuning answers a padded row differently on a decoder

The model gets embeddings in place of tokens, so the classifier cannot find the last token that is not padding.

```pycon
>>> model = get_peft_model(tiny("GPT2"), PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=4)).eval()
>>> padded, mask = torch.tensor([[5, 6, 7, 0, 0]]), torch.tensor([[1, 1, 1, 0, 0]])
>>> with torch.no_grad():
...     torch.allclose(model(input_ids=ids).logits, model(input_ids=padded, attention_mask=mask).logits)
False

```

### Prompt tuning takes the width of hidden states for that of embeddings

```pycon
>>> config = PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=4)
>>> get_peft_model(tiny("Albert", embedding_size=24), config)(input_ids=ids)
Traceback (most recent call last):
RuntimeError: Sizes of tensors must match except in dimension 1...

```

### Prompt tuning does not find the width of DistilBERT

Its config calls it `dim`.

```pycon
>>> get_peft_model(tiny("DistilBert"), PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=4))
Traceback (most recent call last):
ValueError: Please specify `token_dim` in `peft_config`

```

### Prompts of a classifier cannot be switched off

```pycon
>>> model = get_peft_model(tiny("Roberta"), PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=4))
>>> with model.disable_adapter():
...     model(input_ids=ids)
Traceback (most recent call last):
UnboundLocalError: cannot access local variable 'old_prepare_inputs_for_generation'...

```

### A part of DeBERTa's head stays frozen

No checkpoint has the pooler, and `task_type="SEQ_CLS"` trains the classifier alone. lora_bench names every module of the head.

```pycon
>>> model = get_peft_model(tiny("DebertaV2"), LoraConfig(task_type="SEQ_CLS"))
>>> [name for name, weight in model.named_parameters() if "pooler" in name and weight.requires_grad]
[]

```

### The list of modules to save is changed in place

```pycon
>>> head = ["classifier"]
>>> model = get_peft_model(tiny("Roberta"), LoraConfig(task_type="SEQ_CLS", modules_to_save=head))
>>> head == ["classifier"]
False

```

### Most methods cannot be merged under a head of several layers

LoRA and its variants can.

```pycon
>>> config = IA3Config(task_type="SEQ_CLS", target_modules=["key", "value"], feedforward_modules=[])
>>> get_peft_model(tiny("Roberta"), config).merge_and_unload()
Traceback (most recent call last):
AttributeError: 'RobertaClassificationHead' object has no attribute 'weight'

```

### A loaded AdaLoRA gives no loss

So the Trainer cannot evaluate it.

```pycon
>>> config = AdaLoraConfig(task_type="SEQ_CLS", target_modules=["query"], total_step=10, tinit=1, tfinal=1)
>>> with tempfile.TemporaryDirectory() as folder:
...     get_peft_model(tiny("Roberta"), config).save_pretrained(folder)
...     PeftModel.from_pretrained(tiny("Roberta"), folder)(input_ids=ids, labels=torch.tensor([0]))
Traceback (most recent call last):
AttributeError: ...has no attribute 'trainable_adapter_name'

```

### OLoRA turns the weights of GPT-2 the wrong way

Its `Conv1D` keeps them as (inputs, outputs).

```pycon
>>> config = LoraConfig(init_lora_weights="olora", target_modules=["c_attn"], fan_in_fan_out=True)
>>> get_peft_model(tiny("GPT2"), config)(input_ids=ids)
Traceback (most recent call last):
RuntimeError: mat1 and mat2 shapes cannot be multiplied...

```

### OSF trains nothing of GPT-2, and says nothing

```pycon
>>> model = get_peft_model(tiny("GPT2"), OSFConfig(target_modules=["c_attn"], effective_rank=8))
>>> [name for name, weight in model.named_parameters() if weight.requires_grad and "score" not in name]
[]

```

### IA3 takes `adapter_names` and answers every row by the active adapter

`mix_adapters` of lora_bench refuses it.

```pycon
>>> config = IA3Config(target_modules=["value"], feedforward_modules=[])
>>> model = get_peft_model(tiny("Roberta"), config, adapter_name="red")
>>> model.add_adapter("blue", config)
>>> for name, weight in model.eval().named_parameters():
...     _ = weight.data.fill_(9) if "blue" in name else None
>>> mixed = model(input_ids=ids.repeat(2, 1), adapter_names=["red", "blue"]).logits
>>> model.set_adapter("blue")
>>> torch.allclose(mixed[0], mixed[1]), torch.allclose(mixed[1], model(input_ids=ids).logits[0])
(True, False)

```

### Lily answers a row by the other rows of its batch

Its router takes the mean over all tokens of the batch, padding included.

```pycon
>>> config = LilyConfig(target_modules=["query", "value"], r=4, scaling=1e3, init_weights=False)
>>> model = get_peft_model(tiny("Roberta"), config).eval()
>>> with torch.no_grad():
...     alone, beside = (model(input_ids=ids.repeat(2, 1) * torch.tensor([[1], [other]])).logits[0] for other in (1, 4))
>>> torch.allclose(alone, beside, atol=1e-6)
False

```

### A mixed batch that fails leaves its names behind

The next batch is refused, or answered by the adapters of the failed one.

```pycon
>>> model = get_peft_model(tiny("Roberta"), LoraConfig(target_modules=["query"]), adapter_name="red").eval()
>>> model(input_ids=torch.tensor([[99]]), adapter_names=["red"])
Traceback (most recent call last):
IndexError: index out of range in self
>>> model(input_ids=ids.repeat(2, 1))
Traceback (most recent call last):
ValueError: Length of `adapter_names` should be the same as the number of inputs, but got 1 and 2 respectively.

```

### A hot swap empties other adapters

It is those whose names contain that of the swapped one.

```pycon
>>> from peft.utils.hotswap import hotswap_adapter
>>> config = LoraConfig(target_modules=["query"], init_lora_weights=False)
>>> model = get_peft_model(tiny("Roberta"), config, adapter_name="red")
>>> model.add_adapter("red wine", config)
>>> with tempfile.TemporaryDirectory() as folder:
...     model.save_pretrained(folder, selected_adapters=["red"])
...     hotswap_adapter(model, f"{folder}/red", "red", torch_device="cpu")
>>> any(weight.any().item() for name, weight in model.named_parameters() if ".red wine." in name)
False

```
"""
