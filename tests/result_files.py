"""Small files of results, measured and published, for tests of tables."""

from __future__ import annotations

from pathlib import Path

PUBLISHED = Path(__file__).parents[1] / "results" / "published"

MEASURED = """model,method,w_bits,a_bits,scope,seed,options,dataset,psnr_y,ssim_y,fp_psnr_y,gap,bytes,compress_seconds
tiny_net_x4,fp,32,32,full,0,,Set5,30.0,0.90,30.0,0,4096,
tiny_net_x4,dobi,4,4,full,0,,Set5,29.5,0.88,30.0,-0.5,1024,12.3
tiny_net_x4,harmoq,4,4,paper,1,abr_steps=0,Set5,29.8,0.89,30.0,-0.2,1024,40
"""
PAPER = """paper,network,scale,method,w_bits,a_bits,dataset,psnr_y,ssim_y,doubt,note
Own,Tiny-Net,4,full precision,32,32,BSD100,28.00,0.8000,,
Own,Tiny-Net,4,full precision,32,32,Set5,32.00,0.9500,,
Own,Tiny-Net,4,Own,4,4,Set5,32.10,0.9400,,seen
Own,Tiny-Net,4,Own,2,2,Set5,31.00,0.9300,,
Own,Tiny-Net,2,Own,4,4,Set5,36.00,0.9600,,
Own,Other,4,Own,4,4,Set5,33.00,0.9600,,
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path
