"""Suggestions for keys and values that do not exist."""

import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from jepa_pipeline.config.layers import Key
from jepa_pipeline.config.section import section_types

TYPO = 0.75
"""Least similarity, of difflib, of a misspelled key. Keys that share one word of two, as batch_size and image_size, have less."""

OTHER_NAMES: dict[str, tuple[str, ...]] = {
    key: tuple(names.split())
    for key, names in {
        "batch_size_global": "batch_size batch bs global_batch_size train_batch_size batch_size_per_gpu batch_size_per_device "
        "per_device_train_batch_size per_gpu_train_batch_size micro_batch_size",
        "batch_size": "batch bs",
        "lr": "learning_rate base_lr max_lr peak_lr lr_base blr",
        "start_lr": "warmup_lr init_lr warmup_start_lr",
        "final_lr": "min_lr end_lr eta_min lr_end",
        "total_samples": "epochs max_epochs num_epochs n_epochs num_train_epochs steps max_steps num_steps total_steps train_steps "
        "num_training_steps max_iters iterations",
        "warmup_samples": "warmup warmup_epochs warmup_steps warmup_iters warmup_ratio num_warmup_steps",
        "schedule_stretch": "ipe_scale",
        "optim.decay": "lr_scheduler lr_scheduler_type scheduler sched lr_schedule lr_decay",
        "weight_decay": "wd",
        "final_weight_decay": "final_wd weight_decay_end wd_end",
        "clip_norm": "clip_grad grad_clip gradient_clip gradient_clip_val max_grad_norm clip_grad_norm",
        "accumulate_steps": "accumulate_grad_batches gradient_accumulation_steps grad_accum grad_accum_steps accum_iter",
        "betas": "adam_betas opt_betas beta1 beta2 adam_beta1 adam_beta2",
        "eps": "adam_epsilon adam_eps opt_eps",
        "optim.name": "optimizer opt",
        "optim": "optimization",
        "ema": "ema_momentum ema_decay momentum_teacher teacher_momentum target_momentum model_ema_decay",
        "workers": "num_workers n_workers dataloader_num_workers num_data_workers",
        "prefetch_batches": "prefetch_factor prefetch dataloader_prefetch_factor",
        "train": "dataset datasets data_dir data_path data_root path root root_path image_folder train_data train_dir train_path "
        "train_dataset train_folder",
        "views": "data_aug augmentation transform transforms",
        "views.crops": "crop_scale color_jitter color_jitter_strength use_color_distortion use_gaussian_blur "
        "use_horizontal_flip hflip random_resize_scale n_views num_views num_crops local_crops_number",
        "mean": "pixel_mean image_mean norm_mean",
        "std": "pixel_std image_std norm_std",
        "stride": "sampling_rate frame_step frame_stride frame_interval frame_sample_rate",
        "fps": "frame_rate sampling_fps",
        "devices": "gpu gpus num_gpus n_gpus ngpus num_devices nproc_per_node gpus_per_node tasks_per_node world_size",
        "nodes": "num_nodes nnodes n_nodes num_machines",
        "accelerator": "device",
        "precision": "amp fp16 bf16 dtype mixed_precision use_bfloat16 use_amp amp_dtype",
        "compile": "torch_compile torchcompile compile_model",
        "deterministic": "full_determinism cudnn_deterministic",
        "checkpoint_activations": "gradient_checkpointing grad_checkpointing use_activation_checkpointing activation_checkpointing",
        "threads": "num_threads cpu_threads",
        "restarts": "max_restarts num_restarts",
        "silent_s": "heartbeat_timeout heartbeat_timeout_s",
        "max_megapixels": "max_pixels max_image_pixels",
        "arch": "model architecture backbone model_name model_type",
        "image_size": "img_size resolution input_size crop_size image_resolution",
        "patch_size": "patch",
        "frames": "num_frames n_frames frames_per_clip clip_length clip_len",
        "tubelet_size": "tubelet temporal_patch_size",
        "embed_dim": "hidden_size hidden_dim d_model",
        "depth": "num_layers n_layers num_hidden_layers n_layer",
        "num_heads": "num_attention_heads n_heads n_head",
        "predictor.depth": "pred_depth predictor_depth",
        "predictor.embed_dim": "pred_emb_dim pred_embed_dim predictor_embed_dim predictor_dim",
        "predictor.num_heads": "pred_num_heads predictor_num_heads",
        "method.masks": "mask masking",
        "masks.num_targets": "num_pred_masks num_target_blocks",
        "masks.target_scale": "pred_mask_scale target_mask_scale",
        "masks.target_aspect": "aspect_ratio mask_aspect_ratio",
        "masks.context_scale": "enc_mask_scale context_mask_scale",
        "masks.context_keep": "mask_ratio masking_ratio",
        "projector": "proj projection_head proj_hidden_dim proj_output_dim",
        "invariance": "sim_coeff sim_loss_weight",
        "variance": "std_coeff var_loss_weight",
        "covariance": "cov_coeff cov_loss_weight",
        "off_diagonal": "lambd lambda lambda_param",
        "temperature": "temp",
        "prototypes": "num_prototypes nmb_prototypes n_prototypes",
        "slices": "num_slices",
        "init_from": "pretrained init init_weights load_from checkpoint_path pretrained_path init_checkpoint weights",
        "output": "output_dir out out_dir save_dir save_path log_dir logging_dir default_root_dir work_dir checkpoint_dir",
        "name": "run_name exp_name experiment experiment_name write_tag",
        "seed": "random_seed manual_seed global_seed seed_everything",
        "wandb": "use_wandb report_to",
        "wandb_project": "project project_name",
        "log": "logging logger",
        "log.every_steps": "log_every log_interval log_every_n_steps log_freq logging_steps print_freq",
        "health.every_steps": "health_every health_interval",
        "checkpoint.every_steps": "save_every save_interval save_freq save_steps checkpoint_freq checkpoint_every "
        "every_n_train_steps",
        "checkpoint.keep_last": "save_total_limit save_top_k checkpoint_hist max_checkpoints",
        "probing.every_steps": "eval_every eval_steps eval_interval eval_freq val_check_interval check_val_every_n_epoch",
    }.items()
}
"""The names that other programs have for a key: Lightning, timm, transformers, and the official code of the papers."""

OTHER_WAYS = {
    **dict.fromkeys(
        ("resume", "resume_from", "resume_from_checkpoint", "resume_checkpoint", "ckpt_path", "load_checkpoint", "read_checkpoint"),
        "the same command resumes an unfinished run by itself; to begin from another run, set init_from",
    ),
    **dict.fromkeys(("pin_memory", "pin_mem"), "memory is always pinned where that is faster: remove it"),
    **dict.fromkeys(("rank", "local_rank", "dist_url", "master_port"), "torchrun and Slurm say it: remove it"),
}
"""Keys of other programs for things that this one does by itself, with what to do."""

OTHER_VALUES = {
    **{"gpu": "cuda", "gpus": "cuda", "fsdp": "fsdp2"},
    **dict.fromkeys(("float32", "32", "32-true"), "fp32"),
    **dict.fromkeys(("bfloat16", "bf16-mixed", "fp16", "float16", "half", "16", "16-mixed"), "bf16"),
}
"""Values as other programs call them; fp16 needs a scaled loss and is replaced by bf16."""
VIT = re.compile(r"^vit[-_]?(ti|tiny|s|small|b|base|l|large|h|huge|g|giant)(?![a-z])")
VIT_SIZES = {
    **dict.fromkeys(("ti", "tiny"), "vit_tiny"),
    **dict.fromkeys(("s", "small"), "vit_small"),
    **dict.fromkeys(("b", "base"), "vit_base"),
    **dict.fromkeys(("l", "large"), "vit_large"),
    **dict.fromkeys(("h", "huge"), "vit_huge"),
    **dict.fromkeys(("g", "giant"), "vit_giant"),
}
"""The sizes of vision transformers by the letters of the papers, and the words of timm."""


def nearest_key(keys: Iterable[str], section: type[BaseModel] | None, around: Key, name: str) -> str | None:
    """Return the key that a misspelled, misplaced or differently called one resembles most.

    Args:
        keys: all dotted keys of the configuration, for one that is misplaced.
        section: where the key was given.
        around: the dotted key of that section.
        name: the key in it.
    """
    name = plain(name)
    here, fields = ".".join(map(str, around)), list(section.model_fields) if section else []
    renamed = [key for key, others in OTHER_NAMES.items() if name in others]
    known = [dotted for dotted in keys if dotted.rpartition(".")[0] != here]  # not those of another type
    elsewhere = [dotted for target in (*renamed, name) for dotted in known if f".{dotted}".endswith(f".{target}")]
    found = [key for key in renamed if key in fields]
    if not found and not (renamed and elsewhere):
        found = longer_names(name, fields) or get_close_matches(name, fields, 1, cutoff=TYPO)
    if found:
        return ".".join(map(str, (*around, found[0])))
    if elsewhere:
        return elsewhere[0]
    close = get_close_matches(f"{here}.{name}", known, 3, cutoff=0.8)
    return next((key for key in close if not key.startswith(f"{here}.{name}.")), None)


def plain(name: str) -> str:
    """Return a key as it would be written here: with underscores and without capital letters."""
    return name.replace("-", "_").lower()


def other_way(name: str) -> str | None:
    """Return what to do without a key that other programs have, if this one does the same by itself."""
    return OTHER_WAYS.get(plain(name))


def other_unit(name: str, key: str) -> str:
    """Return the unit of a key where another program's key counts epochs, steps, samples of a device or hidden patches."""
    name, last = plain(name), key.rpartition(".")[2]
    if last.endswith("_samples") and name in OTHER_NAMES.get(last, ()):
        return ", in samples"
    if last == "batch_size_global" and re.search("per_|micro", name):
        return ", over all devices"
    return ", the share that is seen" if last == "context_keep" and name in OTHER_NAMES["masks.context_keep"] else ""


def longer_names(name: str, fields: list[str]) -> list[str]:
    """Return the keys that begin, and then those that end, with a name and have further words."""
    return [key for key in fields if key.startswith(f"{name}_")] + [key for key in fields if key.endswith(f"_{name}")]


def nearest_value(value: object, allowed: list[str]) -> str | None:
    """Return the allowed value that another one resembles most."""
    text = str(value).lower()
    other = OTHER_VALUES.get(text) or VIT_SIZES.get(next(iter(VIT.findall(text)), ""))
    if other in allowed:
        return other
    plain = {name.replace("_", "").replace("-", ""): name for name in allowed}
    squeezed = text.replace("_", "").replace("-", "")
    return plain.get(squeezed) or next(iter(get_close_matches(text, allowed, 1, cutoff=0.6)), None)


def assignment_in(section: type[BaseModel] | None, dotted: str, value: object) -> str:
    """Return, for a section that was given a value, what to set: the key with that value, else a key of the section."""
    field = section.model_fields.get(dotted.rpartition(".")[2]) if section else None
    options = section_types(field.annotation) if field else []
    literals = {str(text): key for option in options for key, text in literal_values(option)}
    near = nearest_value(value, list(literals))
    if near is not None:
        return f"did you mean {dotted}.{literals[near]}={near}?"
    kinds = [text for text, key in literals.items() if key == "name"]
    if kinds:
        return f"choose its kind with {dotted}.name, one of {', '.join(kinds)}"
    required = [key for option in options for key, below in option.model_fields.items() if below.is_required()]
    if required and isinstance(value, str):
        return f"did you mean {dotted}.{required[0]}={value}?"
    return f"set its keys, such as {dotted}.{next(iter(options[0].model_fields))}" if options else "set keys below it"


def literal_values(section: type[BaseModel]) -> Iterator[tuple[str, Any]]:
    """Yield the keys of a section that have a fixed choice of values, with each of these values."""
    for key, field in section.model_fields.items():
        for part in (field.annotation, *get_args(field.annotation)):
            if get_origin(part) is Literal:
                yield from ((key, value) for value in get_args(part))
