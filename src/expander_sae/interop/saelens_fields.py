"""What a SAELens config may say: what changes the formula is pinned or read, what does not is known by name.

SAELens before 6 wrote its whole training config into `cfg.json`; those names are the rest of this list.
"""

from expander_sae.records import Fields

DTYPES = ("float32", "float16", "bfloat16", "float64")
DTYPES += tuple(f"torch.{name}" for name in DTYPES)

HARMLESS = frozenset(
    """
    device metadata model_name model_class_name hook_name hook_layer hook_point hook_point_layer hook_head_index
    hook_point_head_index hook_point_eval hook_eval context_size prepend_bos dataset_path
    dataset_trust_remote_code is_dataset_tokenized is_dataset_on_disk streaming use_cached_activations
    cached_activations_path seqpos_slice neuronpedia_id sae_lens_version sae_lens_training_version model_kwargs
    model_from_pretrained_kwargs exclude_special_tokens from_pretrained_path b_dec_init_method expansion_factor
    normalize_sae_decoder noise_scale decoder_orthogonal_init decoder_heuristic_init decoder_heuristic_init_norm
    init_encoder_as_decoder_transpose decoder_init_norm jumprelu_init_threshold jumprelu_bandwidth
    jumprelu_sparsity_loss_mode jumprelu_tanh_scale pre_act_loss_coefficient l0_coefficient l0_warm_up_steps
    topk_threshold_lr aux_loss_coefficient use_sparse_activations matryoshka_widths matryoshka_steps
    detach_matryoshka_losses use_matryoshka_aux_loss n_batches_in_buffer training_tokens finetuning_tokens
    store_batch_size_prompts train_batch_size_tokens tokens_per_buffer act_store_device seed autocast
    autocast_lm compile_llm llm_compilation_mode compile_sae sae_compilation_mode adam_beta1 adam_beta2
    mse_loss_normalization l1_coefficient lp_norm scale_sparsity_penalty_by_decoder_norm l1_warm_up_steps lr
    lr_scheduler_name lr_warm_up_steps lr_end lr_decay_steps n_restart_cycles finetuning_method use_ghost_grads
    feature_sampling_window dead_feature_window dead_feature_threshold n_eval_batches eval_batch_size_prompts
    n_batches_for_norm_estimate activations_mixing_fraction logger log_to_wandb log_activations_store_to_wandb
    log_optimizer_state_to_wandb log_model_artifacts_to_wandb wandb_project wandb_id run_name wandb_entity
    wandb_log_frequency eval_every_n_wandb_logs resume n_checkpoints checkpoint_path save_final_checkpoint
    output_path resume_from_checkpoint verbose
    """.split()  # noqa: SIM905 - as a block it can be read
)
"""Where the activations came from, how it was trained, logged and saved."""


def take_common(fields: Fields) -> None:
    """Check what every architecture has in common, as far as it changes what an SAE computes.

    Raises:
        ExpanderSaeError: the input is normalised or reshaped, or something else is done that is not done here.
    """
    normalised = fields.take("normalize_activations", None)
    if normalised not in (None, "none") and normalised is not False:
        fields.refuse(
            "normalize_activations",
            "'none' (fold it in SAELens first if it can be folded; an SAE that normalises each token cannot be read)",
            normalised,
        )
    fields.one_of("reshape_activations", ("none",))
    fields.one_of("dtype", DTYPES)
    for name in ("finetuning_scaling_factor", "use_error_term"):
        fields.one_of(name, (False,))
