"""What the launch lines of active_rlhf's scripts ask for: names of arguments and values, those that all share
once."""

from __future__ import annotations

import shlex

COMMON = """
    --seed 403021432 --torch_deterministic True --cuda True --track True --wandb_project_name a-project
    --wandb_entity someone --wandb_tags a-tag --total_timesteps 1000000 --num_envs 1 --num_steps 2048
    --replay_buffer_capacity 1000000 --anneal_lr True --norm_adv True --max_grad_norm 0.5 --clip_vloss True
    --target_kl None --query_schedule linear --oversampling_factor 10.0 --reward_net_epochs 5
    --reward_net_max_grad_norm 1.0 --reward_net_minibatch_size 32 --reward_net_ensemble_size 3
    --reward_net_val_split 0.2 --reward_net_batch_size 32 --capture_video False --save_model True
    --upload_model False --hf_entity ''
"""
OF_ENVIRONMENT = {
    "Ant-v5": """
        --num_minibatches 32 --update_epochs 10 --learning_rate 0.0003 --gamma 0.98 --gae_lambda 0.9
        --clip_coef 0.20 --ent_coef 0.0003 --vf_coef 0.55 --total_queries 1000 --queries_per_session 20
        --reward_net_lr 0.0005 --reward_net_weight_decay 7e-6 --reward_net_dropout 0.2
        --reward_net_hidden_dims '[512,512]'""",
    "HalfCheetah-v5": """
        --learning_rate 0.0005 --gamma 0.98 --gae_lambda 0.9 --clip_coef 0.3 --ent_coef 0.0006 --vf_coef 0.35
        --fragment_length 50 --total_queries 500 --queries_per_session 10 --reward_net_lr 0.00008
        --reward_net_weight_decay 0.00001 --reward_net_dropout 0.1 --reward_net_hidden_dims '[256, 256,
        256]'""",
    "Hopper-v5": """
        --learning_rate 3e-5 --gamma 0.99 --gae_lambda 0.95 --clip_coef 0.3 --ent_coef 3e-4 --vf_coef 0.55
        --fragment_length 75 --total_queries 500 --queries_per_session 10 --reward_net_lr 8e-5
        --reward_net_weight_decay 5e-6 --reward_net_dropout 0.2 --reward_net_hidden_dims '[256, 256, 256]'""",
    "Walker2d-v5": """
        --num_minibatches 32 --update_epochs 10 --learning_rate 0.0005 --gamma 0.99 --gae_lambda 0.95
        --clip_coef 0.10 --ent_coef 0.002 --vf_coef 0.45 --fragment_length 75 --total_queries 500
        --queries_per_session 10 --reward_net_lr 0.0004 --reward_net_weight_decay 6e-6 --reward_net_dropout
        0.2 --reward_net_hidden_dims '[256, 256, 256]'""",
}
AUTOENCODER = {
    "Ant-v5": """
        --variquery_vae_lr 1e-3 --variquery_vae_weight_decay 4e-6 --variquery_vae_latent_dim 64
        --variquery_vae_hidden_dims '[512, 256, 128]' --variquery_vae_batch_size 4096
        --variquery_vae_minibatch_size 512 --variquery_vae_val_batch_size 256 --variquery_vae_num_epochs 1
        --variquery_vae_kl_warmup_epochs 2 --variquery_vae_kl_warmup_steps 2
        --variquery_vae_early_stopping_patience 20 --variquery_vae_dropout 0.0 --variquery_vae_kl_weight 0.0
        --variquery_vae_noise_sigma 0.1 --variquery_vae_conv_kernel_size 5 --variquery_cluster_size 5""",
    "HalfCheetah-v5": """
        --variquery_vae_lr 7e-4 --variquery_vae_weight_decay 1e-4 --variquery_vae_latent_dim 16
        --variquery_vae_hidden_dims '[64, 32]' --variquery_vae_batch_size 4096 --variquery_vae_minibatch_size
        256 --variquery_vae_val_batch_size 256 --variquery_vae_num_epochs 1 --variquery_vae_kl_warmup_epochs 2
        --variquery_vae_kl_warmup_steps 2 --variquery_vae_early_stopping_patience 20 --variquery_vae_dropout
        0.0 --variquery_vae_kl_weight 0.0002 --variquery_vae_noise_sigma 0.1 --variquery_vae_conv_kernel_size
        5 --variquery_cluster_size 12""",
    "Hopper-v5": """
        --variquery_vae_lr 0.002 --variquery_vae_weight_decay 2e-05 --variquery_vae_latent_dim 64
        --variquery_vae_hidden_dims '[64, 32]' --variquery_vae_batch_size 2048 --variquery_vae_minibatch_size
        512 --variquery_vae_num_epochs 5 --variquery_vae_dropout 0.0 --variquery_vae_kl_weight 0.0
        --variquery_vae_noise_sigma 0.0 --variquery_cluster_size 10""",
    "Walker2d-v5": """
        --variquery_vae_lr 0.001 --variquery_vae_weight_decay 2e-5 --variquery_vae_latent_dim 64
        --variquery_vae_hidden_dims '[256, 128, 64]' --variquery_vae_batch_size 1024
        --variquery_vae_minibatch_size 256 --variquery_vae_val_batch_size 256 --variquery_vae_num_epochs 1
        --variquery_vae_kl_warmup_epochs 2 --variquery_vae_kl_warmup_steps 2
        --variquery_vae_early_stopping_patience 20 --variquery_vae_dropout 0.0 --variquery_vae_kl_weight
        0.00001 --variquery_vae_noise_sigma 0.05 --variquery_vae_conv_kernel_size 5 --variquery_cluster_size
        8""",
}
OF_SELECTOR = {
    "duo": "--exp_name prefppo_duo_prio --sampling_strategy priority --duo_consensual_filter False",
    "random": "--exp_name prefppo_random --sampling_strategy uniform",
    "hybrid": "--exp_name prefppo_hybrid_prio --sampling_strategy priority",
    "variquery": "--exp_name prefppo_variquery --sampling_strategy uniform",
}
OF_HYBRID = {"Ant-v5": ("0.7", "0.5", "1.0"), "HalfCheetah-v5": ("0.5", "0.5", "1.5")}
OF_HYBRID |= {"Hopper-v5": ("0.5", "0.6", "0.7"), "Walker2d-v5": ("0.5", "0.5", "1.0")}
MAIN = """
    --exp_name hybrid_v1 --seed 1 --torch_deterministic True --cuda True --track True --wandb_project_name
    a-project --wandb_entity someone --wandb_tags a-tag --capture_video False --save_model True --upload_model
    False --hf_entity '' --env_id HalfCheetah-v4 --total_timesteps 1000000 --learning_rate 3e-4 --num_envs 1
    --num_steps 2048 --anneal_lr True --gamma 0.99 --gae_lambda 0.95 --num_minibatches 32 --update_epochs 10
    --norm_adv True --clip_coef 0.2 --clip_vloss True --ent_coef 1e-3 --vf_coef 0.5 --max_grad_norm 0.5
    --target_kl None --replay_buffer_capacity 1000000 --reward_net_epochs 5 --reward_net_lr 1e-4
    --reward_net_weight_decay 1e-4 --reward_net_max_grad_norm 1.0 --reward_net_batch_size 32
    --reward_net_minibatch_size 32 --reward_net_ensemble_size 3 --reward_net_dropout 0.1
    --reward_net_hidden_dims '[256, 256, 256]' --reward_net_val_split 0.2 --query_schedule linear
    --total_queries 500 --queries_per_session 10 --selector_type duo --sampling_strategy priority
    --oversampling_factor 10.0 --fragment_length 25 --variquery_vae_latent_dim 32 --variquery_vae_hidden_dims
    '[128, 64, 32]' --variquery_vae_lr 1e-3 --variquery_vae_weight_decay 1e-4 --variquery_vae_batch_size 1024
    --variquery_vae_val_batch_size 256 --variquery_vae_minibatch_size 128 --variquery_vae_num_epochs 1
    --variquery_vae_kl_warmup_epochs 2 --variquery_vae_kl_warmup_steps 2
    --variquery_vae_early_stopping_patience 20 --variquery_vae_dropout 0.0 --variquery_vae_kl_weight 1e-4
    --variquery_vae_conv_kernel_size 5 --variquery_vae_attention_dim 128 --variquery_vae_attention_heads 4
    --variquery_vae_attention_blocks 4 --variquery_vae_decoder_layers 2 --variquery_vae_noise_sigma 0.0
    --variquery_cluster_size 10 --duo_consensual_filter False --hybrid_dpp_gamma_z 1.0 --hybrid_dpp_gamma_r
    1.0 --hybrid_dpp_beta 0.5 --hybrid_dpp_min_q 0.5 --hybrid_dpp_temp_q 1.5 --save_replay_buffer True
"""
TRAIN_VAE = """
    --vae_hidden_dims 128 64 32 --vae_latent_dim 16 --vae_conv_kernel_size 5 --vae_conv_padding 2
    --vae_decoder_layers 2 --vae_attention_dim 128 --vae_attention_heads 4 --vae_attention_blocks 2
    --vae_dropout 0.0 --vae_kl_weight 0.001 --vae_weight_decay 1e-5 --vae_lr 1e-3 --vae_batch_size 64
    --vae_num_epochs 200 --vae_early_stopping_patience 25 --fragment_length 50 --create_visualizations True
    --enable_gradual_unlocking True --initial_data_fraction 0.05 --final_data_fraction 1.0 --unlock_schedule
    linear
"""
"""Without its path."""


def _sweep(environment: str, selector: str) -> list[str]:
    parts = [
        COMMON,
        f"--env_id {environment} --selector_type {selector}",
        OF_ENVIRONMENT[environment],
        OF_SELECTOR[selector],
    ]
    if environment == "Ant-v5":
        parts.append(f"--fragment_length {75 if selector in ('duo', 'random') else 25}")
    if (environment, selector) == ("HalfCheetah-v5", "variquery"):
        parts.append("--num_minibatches 32 --update_epochs 10")
    if selector in ("hybrid", "variquery"):
        parts.append(AUTOENCODER[environment])
    if selector == "hybrid":
        parts.append(
            "--hybrid_dpp_beta {} --hybrid_dpp_min_q {} --hybrid_dpp_temp_q {}".format(
                *OF_HYBRID[environment]
            )
        )
    return shlex.split(" ".join(parts))


PREF_PPO = {"main": shlex.split(MAIN)} | {
    f"{env}, {name}": _sweep(env, name) for env in OF_ENVIRONMENT for name in OF_SELECTOR
}
"""Those of pref_ppo.py."""
