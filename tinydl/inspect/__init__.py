"""Tools that look into a model: are its gradients right?"""

from tinydl.inspect.gradcheck import ArrayCheck, GradientReport, gradcheck

__all__ = ["ArrayCheck", "GradientReport", "gradcheck"]
