"""PSNR and SSIM as the SR literature measures them, on any callable that upscales pictures."""
