"""What an agent learns from: rollouts and the replay memory."""
